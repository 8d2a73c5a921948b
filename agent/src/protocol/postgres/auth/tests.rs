//! Both sides against each other, and against peers that misbehave.

use bytes::{BufMut as _, BytesMut};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::client::{LoginError, greet, log_in, rewrite_startup};
use super::server::{ClientError, authenticate};
use super::*;
use crate::credential::verifier::Verifier;
use crate::credential::{Login, ServerAuth};
use crate::protocol::postgres::startup::{self, Packet};

fn verifier(password: &str) -> Verifier {
    Verifier::parse(&postgres_protocol::password::scram_sha_256(password.as_bytes())).unwrap()
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    codec::put_message(&mut out, tag, |out| out.extend_from_slice(body));
    out
}

fn ask(code: i32, rest: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes()[..], rest].concat())
}

fn startup() -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, 0, 3, 0, 0];
    bytes.put_slice(b"user\0app\0database\0shop\0application_name\0nightly\0\0");
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    bytes[..4].copy_from_slice(&length);
    bytes
}

/// The agent logs in to a server that sends these messages, one after each of ours.
async fn against(
    answers: &[Vec<u8>],
    allowed: ServerAuth,
    encrypted: bool,
) -> (Result<&'static str, LoginError>, Vec<u8>) {
    let (mut ours, mut theirs) = tokio::io::duplex(1 << 16);
    let answers = answers.to_vec();
    let server = tokio::spawn(async move {
        let mut seen = Vec::new();
        for answer in answers {
            let mut buffer = [0; 4096];
            let read = theirs.read(&mut buffer).await.unwrap();
            seen.extend_from_slice(&buffer[..read]);
            // We may have had enough.
            if theirs.write_all(&answer).await.is_err() {
                break;
            }
        }
        drop(theirs.shutdown().await);
        let _ = theirs.read_to_end(&mut seen).await;
        seen
    });
    let login = Login::new("app_rw", "tr0ub4dor");
    let mut input = BytesMut::new();
    let result = match greet(&mut ours, &mut input, &startup()).await {
        Ok(greeting) => log_in(&mut ours, &mut input, greeting, &login, allowed, None, encrypted).await,
        Err(error) => Err(error),
    };
    drop(ours);
    (result, server.await.unwrap())
}

async fn plain(answers: &[Vec<u8>]) -> (Result<&'static str, LoginError>, Vec<u8>) {
    against(answers, ServerAuth::default(), false).await
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn both_sides_come_together() {
    for binding in [None, Some(&b"hash of the certificate"[..])] {
        for (password, fits) in [("tr0ub4dor", true), ("other", false)] {
            let (mut ours, mut theirs) = tokio::io::duplex(4096);
            let client = async {
                let login = Login::new("app", password);
                let mut input = BytesMut::new();
                let greeting = greet(&mut ours, &mut input, b"").await.unwrap();
                log_in(&mut ours, &mut input, greeting, &login, ServerAuth::default(), binding, false).await
            };
            let server = async {
                let verifier = verifier("tr0ub4dor");
                let shown = authenticate(&mut theirs, &mut BytesMut::new(), "app", &verifier, binding).await;
                match &shown {
                    Ok(_) => theirs.write_all(&OK).await.unwrap(),
                    Err(error) => theirs.write_all(&error.response().unwrap()).await.unwrap(),
                }
                shown
            };
            let (in_client, in_server) = tokio::join!(client, server);
            if fits {
                let (method, mechanism) = match binding {
                    Some(_) => ("scram-sha-256-plus", SCRAM_PLUS),
                    None => ("scram-sha-256", SCRAM),
                };
                assert_eq!((in_client.unwrap(), in_server.unwrap()), (method, mechanism));
            } else {
                let Err(LoginError::Refused(told)) = in_client else { panic!("{in_client:?}") };
                assert!(told.is_about_the_login());
                assert_eq!(
                    (told.code().as_str(), told.message().as_str()),
                    ("28P01", "password authentication failed for user \"app\"")
                );
                assert!(matches!(in_server, Err(ClientError::Refused { code: "28P01", .. })));
            }
        }
    }
}

#[tokio::test]
async fn weak_methods_are_used_where_they_are_allowed() {
    let (md5, sent) = plain(&[ask(5, b"salt"), ask(0, b"")]).await;
    assert_eq!(md5.unwrap(), "md5");
    assert!(holds(&sent, b"md5") && !holds(&sent, b"tr0ub4dor"));
    let (trust, _) = plain(&[ask(0, b"")]).await;
    assert_eq!(trust.unwrap(), "trust");

    let (cleartext, sent) = plain(&[ask(3, b""), ask(0, b"")]).await;
    assert!(cleartext.unwrap_err().to_string().contains("cleartext: true"));
    assert!(!holds(&sent, b"tr0ub4dor"));
    let (cleartext, sent) = against(&[ask(3, b""), ask(0, b"")], ServerAuth::default(), true).await;
    assert_eq!(cleartext.unwrap(), "cleartext");
    assert!(holds(&sent, b"tr0ub4dor\0"));
    let open = ServerAuth { cleartext: Some(true), ..ServerAuth::default() };
    assert_eq!(against(&[ask(3, b""), ask(0, b"")], open, false).await.0.unwrap(), "cleartext");
    let strict = ServerAuth { md5: false, cleartext: Some(false), trust: false };
    for code in [0, 3, 5] {
        let (refused, sent) = against(&[ask(code, b"salt"), ask(0, b"")], strict, true).await;
        assert!(matches!(refused, Err(LoginError::NotAllowed(_))), "{code}");
        assert!(!holds(&sent, b"tr0ub4dor") && !holds(&sent, b"md5"), "{code}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_know_the_password_is_found_out() {
    let offer = ask(10, b"SCRAM-SHA-256\0\0");
    // It accepts whatever it gets.
    let (result, sent) = plain(&[offer.clone(), ask(0, b"")]).await;
    assert!(matches!(result, Err(LoginError::Exchange(_))), "{result:?}");
    assert!(!holds(&sent, b"tr0ub4dor"));
    // A nonce that is not made of ours.
    let (result, _) = plain(&[offer.clone(), ask(11, b"r=x,s=c2FsdA==,i=4096"), ask(0, b"")]).await;
    assert!(matches!(result, Err(LoginError::Exchange(_))), "{result:?}");
    // The exchange is right, but for the signature.
    let (mut ours, mut theirs) = tokio::io::duplex(4096);
    let server = tokio::spawn(async move {
        theirs.write_all(&ask(10, b"SCRAM-SHA-256\0\0")).await.unwrap();
        let mut input = BytesMut::new();
        let first = read(&mut theirs, &mut input, 4096).await.unwrap();
        let text = String::from_utf8_lossy(first.body()).into_owned();
        let nonce = text.rsplit("r=").next().unwrap();
        theirs.write_all(&ask(11, format!("r={nonce}more,s=c2FsdA==,i=4096").as_bytes())).await.unwrap();
        read(&mut theirs, &mut input, 4096).await.unwrap();
        theirs.write_all(&ask(12, b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")).await.unwrap();
        let _ = theirs.write_all(&ask(0, b"")).await;
        theirs
    });
    let mut input = BytesMut::new();
    let greeting = greet(&mut ours, &mut input, b"").await.unwrap();
    let login = Login::new("app", "tr0ub4dor");
    let result = log_in(&mut ours, &mut input, greeting, &login, ServerAuth::default(), None, false).await;
    assert!(matches!(result, Err(LoginError::Exchange(_))), "{result:?}");
    drop(server.await.unwrap());
}

#[tokio::test]
async fn what_a_server_says_besides_is_kept_or_passed_over() {
    let version = message(b'v', b"\0\x03\0\0\0\0\0\0");
    let notice = message(b'N', b"SNOTICE\0Mhello\0\0");
    let (mut ours, mut theirs) = tokio::io::duplex(4096);
    theirs
        .write_all(&[version.clone(), notice.clone(), ask(0, b""), message(b'S', b"a\0b\0")].concat())
        .await
        .unwrap();
    let mut input = BytesMut::new();
    let greeting = greet(&mut ours, &mut input, &startup()).await.unwrap();
    assert_eq!(&greeting.negotiation[..], version);
    let login = Login::new("app", "x");
    log_in(&mut ours, &mut input, greeting, &login, ServerAuth::default(), None, false).await.unwrap();
    assert_eq!(&input[..], message(b'S', b"a\0b\0"), "the rest is the relay's");

    let flood = notice.repeat(100);
    let (result, _) = plain(&[flood]).await;
    assert!(matches!(result, Err(LoginError::Exchange(_))));
    let (result, _) = plain(&[vec![b'R', 0x20, 0, 0, 0]]).await;
    assert!(matches!(result, Err(LoginError::Read(ReadError::TooLong { .. }))));
    for code in [7, 9, 99] {
        let (result, _) = plain(&[ask(code, b"")]).await;
        assert!(matches!(result, Err(LoginError::NotAllowed(_))));
    }
}

#[test]
fn the_start_up_message_gets_another_user_and_database() {
    let bytes = rewrite_startup(&startup(), "app_rw", "shop_rw");
    let (Packet::Startup(packet), length) = startup::read(&bytes).unwrap().unwrap() else { panic!() };
    assert_eq!(length, bytes.len());
    let parameters: Vec<_> = packet.parameters().collect();
    assert_eq!(
        parameters,
        [(&b"user"[..], &b"app_rw"[..]), (b"database", b"shop_rw"), (b"application_name", b"nightly")]
    );
}

/// What a server answers to these bytes of a client.
async fn client_sends(bytes: &[u8]) -> (Result<&'static str, ClientError>, Vec<u8>) {
    let (mut ours, mut theirs): (DuplexStream, DuplexStream) = tokio::io::duplex(1 << 16);
    theirs.write_all(bytes).await.unwrap();
    theirs.shutdown().await.unwrap();
    let verifier = verifier("x");
    let result = authenticate(&mut ours, &mut BytesMut::new(), "app", &verifier, None).await;
    drop(ours);
    let mut answer = Vec::new();
    theirs.read_to_end(&mut answer).await.unwrap();
    (result, answer)
}

#[tokio::test]
async fn clients_that_misbehave_are_told_as_a_server_tells_them() {
    let first = |mechanism: &str, data: Option<&[u8]>| {
        let mut body = mechanism.as_bytes().to_vec();
        body.push(0);
        match data {
            Some(data) => {
                body.put_i32(i32::try_from(data.len()).unwrap());
                body.put_slice(data);
            }
            None => body.put_i32(-1),
        }
        message(b'p', &body)
    };
    for (bytes, code) in [
        (first("SCRAM-SHA-256-PLUS", Some(b"p=tls-server-end-point,,n=,r=a")), "08P01"),
        (first("PLAIN", Some(b"x")), "08P01"),
        (first("SCRAM-SHA-256", Some(b"garbage")), "08P01"),
        (first("SCRAM-SHA-256", Some(b"n,a=root,n=,r=a")), "0A000"),
        (message(b'p', b"secret\0"), "08P01"),
        (message(b'Q', b"select 1\0"), "08P01"),
        (message(b'p', &[b'x'; 5000]), "08P01"),
        (vec![b'p', 0xff, 0xff, 0xff, 0xff], "08P01"),
    ] {
        let (result, _) = client_sends(&bytes).await;
        let response = result.unwrap_err().response().unwrap();
        assert!(holds(&response, format!("C{code}\0").as_bytes()), "{}", String::from_utf8_lossy(&response));
        assert!(!holds(&response, b"secret"));
    }
    // A client without an initial response is asked for one.
    let (result, answer) = client_sends(&first("SCRAM-SHA-256", None)).await;
    assert!(matches!(result, Err(ClientError::Read(ReadError::Closed))));
    assert!(holds(&answer, &ask(11, b"")));
    assert!(client_sends(b"").await.0.unwrap_err().response().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hostile_peers_never_panic_and_never_get_in(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        tags in prop::collection::vec(prop::sample::select(b"RpEvNSQ".to_vec()), 1..4),
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let framed: Vec<u8> = tags.iter().zip(&bodies).flat_map(|(tag, body)| message(*tag, body)).collect();
        for bytes in [&bytes, &framed] {
            let (result, _) = runtime.block_on(client_sends(bytes));
            prop_assert!(result.is_err());
            let strict = ServerAuth { trust: false, ..ServerAuth::default() };
            let (result, sent) = runtime.block_on(against(std::slice::from_ref(bytes), strict, false));
            prop_assert!(result.is_err());
            prop_assert!(!holds(&sent, b"tr0ub4dor"));
        }
    }
}
