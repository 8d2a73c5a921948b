//! An issuer of tokens for tests: keys made on the spot, and a server that a test can change.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::identity::config::IssuerConfig;

/// A key that signs tokens.
pub(crate) enum Key {
    Ec(String, EcdsaKeyPair),
    Ed(String, Ed25519KeyPair),
}

impl Key {
    pub(crate) fn ec(id: &str) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        Self::Ec(id.to_owned(), pair)
    }

    pub(crate) fn ed(id: &str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed(id.to_owned(), Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    pub(crate) fn jwk(&self) -> Value {
        match self {
            Self::Ec(id, pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..]));
                json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": id, "use": "sig", "alg": "ES256"})
            }
            Self::Ed(id, pair) => {
                let x = BASE64.encode(pair.public_key().as_ref());
                json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": id, "use": "sig"})
            }
        }
    }

    pub(crate) fn header(&self) -> Value {
        match self {
            Self::Ec(id, _) => json!({"alg": "ES256", "kid": id, "typ": "JWT"}),
            Self::Ed(id, _) => json!({"alg": "EdDSA", "kid": id, "typ": "JWT"}),
        }
    }

    pub(crate) fn sign(&self, claims: &Value) -> Zeroizing<String> {
        self.sign_with(&self.header(), claims)
    }

    pub(crate) fn sign_with(&self, header: &Value, claims: &Value) -> Zeroizing<String> {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    pub(crate) fn sign_text(&self, header: &str, claims: &str) -> Zeroizing<String> {
        let signed = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
        let signature = match self {
            Self::Ec(_, pair) => {
                pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap().as_ref().to_vec()
            }
            Self::Ed(_, pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
        };
        format!("{signed}.{}", BASE64.encode(signature)).into()
    }
}

/// Seconds since 1970, as many from now.
pub(crate) fn seconds(from_now: i64) -> i64 {
    Timestamp::now().as_second() + from_now
}

type Answers = HashMap<String, (u16, String)>;

/// A server on this host that answers as a test says.
pub(crate) struct Server {
    pub(crate) url: String,
    answers: Arc<Mutex<Answers>>,
    /// What was asked for: the line, and what it was authorized with.
    pub(crate) asked: Arc<Mutex<Vec<(String, String)>>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answers: Arc<Mutex<Answers>> = Arc::default();
        let asked: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let (served, noted) = (Arc::clone(&answers), Arc::clone(&asked));
        // It ends with the tests' process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let (mut line, mut bearer, mut length) = (String::new(), String::new(), 0);
                let _ = stream.read_line(&mut line);
                loop {
                    let mut header = String::new();
                    if stream.read_line(&mut header).unwrap_or(0) <= 2 {
                        break;
                    }
                    if let Some(value) = header.to_lowercase().strip_prefix("authorization: ") {
                        bearer = header[header.len() - value.len()..].trim().to_owned();
                    }
                    if let Some(value) = header.to_lowercase().strip_prefix("content-length: ") {
                        length = value.trim().parse().unwrap();
                    }
                }
                let _ = std::io::copy(&mut stream.by_ref().take(length), &mut std::io::sink());
                let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
                noted.lock().unwrap().push((target.clone(), bearer));
                let path = target.split('?').next().unwrap_or_default();
                let (status, body) =
                    served.lock().unwrap().get(path).cloned().unwrap_or((404, String::new()));
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
                );
                let _ = stream.get_mut().write_all(format!("{head}{body}").as_bytes());
            }
        });
        Self { url, answers, asked }
    }

    pub(crate) fn answer(&self, path: &str, status: u16, body: &Value) {
        self.answers.lock().unwrap().insert(path.to_owned(), (status, body.to_string()));
    }

    /// Metadata and keys.
    pub(crate) fn publish(&self, keys: &[&Key]) {
        let metadata = json!({"issuer": self.url, "jwks_uri": format!("{}/keys", self.url)});
        self.answer("/.well-known/openid-configuration", 200, &metadata);
        let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
        self.answer("/keys", 200, &json!({"keys": keys}));
    }

    /// Nothing is answered any more.
    pub(crate) fn fall_silent(&self) {
        self.answers.lock().unwrap().clear();
    }

    pub(crate) fn times_asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|(asked, _)| asked == path).count()
    }

    /// An issuer of workloads' tokens for `interlock`, made by this server.
    pub(crate) fn config(&self) -> IssuerConfig {
        config(&format!(
            "{{name: ci, kind: workload, issuer: '{}', audience: interlock, token: {{variable: T}}}}",
            self.url
        ))
    }

    /// Claims that hold.
    pub(crate) fn claims(&self) -> Value {
        json!({
            "iss": self.url, "aud": "interlock", "sub": "job:1", "jti": format!("{:?}", std::time::Instant::now()),
            "iat": seconds(-1), "nbf": seconds(-1), "exp": seconds(600),
        })
    }
}

/// An issuer's entry in agent.yaml.
pub(crate) fn config(yaml: &str) -> IssuerConfig {
    serde_saphyr::from_str(yaml).unwrap()
}
