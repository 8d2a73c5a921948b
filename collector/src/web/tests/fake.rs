//! A provider of OpenID Connect that says whatever a test wants.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

/// A key that signs ID tokens.
pub(super) struct Key {
    id: &'static str,
    pair: EcdsaKeyPair,
}

impl Key {
    pub(super) fn new(id: &'static str) -> Self {
        let random = ring::rand::SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.as_ref(), &random).unwrap();
        Self { id, pair }
    }

    pub(super) fn public(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "kid": self.id, "use": "sig", "x": part(&point[1..33]), "y": part(&point[33..])})
    }

    pub(super) fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": "ES256", "kid": self.id}), claims)
    }

    pub(super) fn token_with(&self, head: &Value, claims: &Value) -> String {
        let text = unsigned(head, claims);
        let random = ring::rand::SystemRandom::new();
        let signature = self.pair.sign(&random, text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

pub(super) fn unsigned(head: &Value, claims: &Value) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(head.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()))
}

/// What the provider answers.
#[derive(Default)]
pub(super) struct Says {
    pub(super) keys: Vec<Value>,
    pub(super) id_token: Option<String>,
    pub(super) userinfo: Option<Value>,
    pub(super) more_metadata: Value,
    /// What the token endpoint was sent.
    pub(super) asked: Vec<String>,
}

/// A provider that says what it is told to.
pub(super) struct Fake {
    pub(super) issuer: String,
    says: Arc<Mutex<Says>>,
    pub(super) key: Key,
}

impl Fake {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let key = Key::new("first");
        let says = Arc::new(Mutex::new(Says { keys: vec![key.public()], ..Says::default() }));
        let (shared, own) = (Arc::clone(&says), issuer.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (shared, own) = (Arc::clone(&shared), own.clone());
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    let mut head = String::new();
                    let mut length = 0;
                    loop {
                        let mut line = String::new();
                        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                            break;
                        }
                        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                            length = value.trim().parse().unwrap();
                        }
                        head += &line;
                    }
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    let mut says = shared.lock().unwrap();
                    let answer = match head.split(' ').nth(1).unwrap_or_default() {
                        "/.well-known/openid-configuration" => {
                            let mut metadata = json!({
                                "issuer": own, "authorization_endpoint": format!("{own}/authorize"),
                                "token_endpoint": format!("{own}/token"), "jwks_uri": format!("{own}/jwks"),
                                "userinfo_endpoint": format!("{own}/userinfo"),
                                "response_types_supported": ["code"], "subject_types_supported": ["public"],
                                "id_token_signing_alg_values_supported": ["ES256", "HS256", "none"],
                            });
                            for (name, value) in says.more_metadata.as_object().into_iter().flatten() {
                                metadata[name] = value.clone();
                            }
                            Some(metadata)
                        }
                        "/jwks" => Some(json!({"keys": says.keys})),
                        "/token" => {
                            says.asked.push(format!("{head}\n{}", String::from_utf8(body).unwrap()));
                            let mut answer = json!({"access_token": "access", "token_type": "Bearer"});
                            if let Some(token) = &says.id_token {
                                answer["id_token"] = json!(token);
                            }
                            Some(answer)
                        }
                        "/userinfo" => says.userinfo.clone(),
                        _ => None,
                    };
                    let (status, text) = match answer {
                        Some(answer) => ("200 OK", answer.to_string()),
                        None => ("404 Not Found", "{}".into()),
                    };
                    let _ = write!(
                        stream,
                        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                        text.len()
                    );
                });
            }
        });
        Self { issuer, says, key }
    }

    pub(super) fn says(&self) -> std::sync::MutexGuard<'_, Says> {
        self.says.lock().unwrap()
    }
}
