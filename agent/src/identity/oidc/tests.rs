use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::fake::{Key, Server, config, seconds};
use super::*;
use crate::identity::GroupsKnown;

fn with(mut claims: Value, more: Value) -> Value {
    let (Value::Object(object), Value::Object(more)) = (&mut claims, more) else { panic!() };
    for (name, value) in more {
        if value.is_null() { drop(object.remove(&name)) } else { drop(object.insert(name, value)) }
    }
    claims
}

#[test]
fn a_good_token_says_who_it_is() {
    let (server, key) = (Server::start(), Key::ec("1"));
    server.publish(&[&Key::ed("other"), &key]);
    let issuer = Issuer::new(&server.config()).unwrap();
    let claims =
        with(server.claims(), json!({"groups": ["b", "a", "a", 7], "preferred_username": "deployer"}));
    let verified = issuer.verify(&key.sign(&claims)).unwrap();
    assert_eq!((&*verified.issuer_name, &*verified.issuer), ("ci", server.url.as_str()));
    assert_eq!((verified.subject.as_str(), verified.name.as_str()), ("job:1", "deployer"));
    assert_eq!(verified.groups, ["a", "b"]);
    assert_eq!(verified.token_hash.len(), 64);
    assert_eq!(verified.expires.as_second(), claims["exp"].as_i64().unwrap() + 60);
    // Keys and metadata are asked for once.
    issuer.verify(&key.sign(&server.claims())).unwrap();
    assert_eq!(
        (server.times_asked("/keys"), server.times_asked("/.well-known/openid-configuration")),
        (1, 1)
    );
    // The same token is told by its id, not by how its signature is written.
    assert_eq!(issuer.verify(&key.sign(&claims)).unwrap().token_hash, verified.token_hash);
    let other = with(claims, json!({"jti": "another"}));
    assert_ne!(issuer.verify(&key.sign(&other)).unwrap().token_hash, verified.token_hash);
}

/// What an attacker may try, each with the words that refuse it.
#[test]
fn bad_tokens_are_refused() {
    let (server, key, foreign) = (Server::start(), Key::ec("1"), Key::ec("1"));
    let ed = Key::ed("2");
    let rsa = json!({"kty": "RSA", "kid": "3", "e": "AQAB", "n": BASE64.encode([0xc5; 256]), "alg": "RS256"});
    let metadata = json!({"issuer": server.url, "jwks_uri": format!("{}/keys", server.url)});
    server.answer("/.well-known/openid-configuration", 200, &metadata);
    let symmetric = json!({"kty": "oct", "k": BASE64.encode("secret"), "kid": "4", "alg": "HS256"});
    let weak = json!({"kty": "RSA", "kid": "5", "e": "AQ", "n": BASE64.encode([0xc5; 256])});
    server.answer("/keys", 200, &json!({"keys": [key.jwk(), ed.jwk(), rsa, symmetric, weak]}));
    let issuer = Issuer::new(&server.config()).unwrap();
    let good = server.claims();
    issuer.verify(&key.sign(&good)).unwrap();
    issuer.verify(&ed.sign(&good)).unwrap();

    let unsigned = |header: Value| {
        Zeroizing::new(format!("{}.{}.", BASE64.encode(header.to_string()), BASE64.encode(good.to_string())))
    };
    // Signed with a MAC whose key is a public key, or a key of the set.
    let mac = |secret: &[u8], header: Value| {
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(good.to_string()));
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret).unwrap();
        mac.update(signed.as_bytes());
        Zeroizing::new(format!("{signed}.{}", BASE64.encode(mac.finalize().into_bytes())))
    };
    let text = |token: &str| Zeroizing::new(token.to_owned());
    let header = |more: Value| with(key.header(), more);
    let signed = key.sign(&good);
    let parts: Vec<&str> = signed.split('.').collect();
    let changed = BASE64.encode(with(good.clone(), json!({"sub": "root"})).to_string());
    let long = with(good.clone(), json!({"pad": "x".repeat(MAX_TOKEN)}));
    let one_at_the_end = {
        // RSASSA-PKCS1-v1_5 with an exponent of one: the "signature" is what is signed.
        let header = json!({"alg": "RS256", "kid": "5"});
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(good.to_string()));
        Zeroizing::new(format!("{signed}.{}", BASE64.encode([1; 256])))
    };
    let duplicate = good.to_string().replacen('{', "{\"sub\":\"root\",", 1);
    let nested = good.to_string().replacen('{', "{\"x\":{\"a\":1,\"a\":2},", 1);
    let claims = |more: Value| key.sign(&with(good.clone(), more));
    let cases: Vec<(&str, Zeroizing<String>, &str)> = vec![
        ("empty", text(""), "empty"),
        ("no token", text("hello"), "no signed JWT"),
        ("two parts", text("a.b"), "no signed JWT"),
        ("five parts", text("a.b.c.d.e"), "encrypted"),
        ("no base64", text(&format!("{}.!.{}", parts[0], parts[2])), "no signed JWT"),
        ("padding", text(&format!("{}=", *signed)), "no signed JWT"),
        ("a line break", text(&format!("{}\n", *signed)), "no signed JWT"),
        ("huge", key.sign(&long), "more than"),
        ("alg none", unsigned(json!({"alg": "none"})), "algorithm with a public key"),
        ("alg None", unsigned(json!({"alg": "None", "kid": "1"})), "algorithm with a public key"),
        ("no alg", unsigned(json!({"kid": "1"})), "algorithm with a public key"),
        ("no signature", unsigned(key.header()), "no signed JWT"),
        (
            "HS256 with the public key",
            mac(key.jwk().to_string().as_bytes(), json!({"alg": "HS256", "kid": "1"})),
            "algorithm with a public key",
        ),
        (
            "HS256 with a key of the set",
            mac(b"secret", json!({"alg": "HS256", "kid": "4"})),
            "algorithm with a public key",
        ),
        ("ES256 for a MAC", mac(b"secret", json!({"alg": "ES256", "kid": "4"})), "no key of the issuer's"),
        ("RS256 with an EC key", mac(b"x", json!({"alg": "RS256", "kid": "1"})), "no key of the issuer's"),
        (
            "ES384 with a key of ES256",
            key.sign_with(&header(json!({"alg": "ES384"})), &good),
            "no key of the issuer's",
        ),
        (
            "EdDSA with an EC key",
            key.sign_with(&header(json!({"alg": "EdDSA"})), &good),
            "no key of the issuer's",
        ),
        ("a key that signs anything", one_at_the_end, "no key of the issuer's"),
        ("another's key of this name", foreign.sign(&good), "no key of the issuer's"),
        (
            "no key id, several keys",
            foreign.sign_with(&json!({"alg": "ES256"}), &good),
            "no key of the issuer's",
        ),
        (
            "a key of its own",
            foreign.sign_with(&with(foreign.header(), json!({"jwk": foreign.jwk()})), &good),
            "key of its own (jwk)",
        ),
        (
            "jku",
            foreign.sign_with(&header(json!({"jku": "https://evil.example"})), &good),
            "key of its own (jku)",
        ),
        (
            "x5u",
            foreign.sign_with(&header(json!({"x5u": "https://evil.example"})), &good),
            "key of its own (x5u)",
        ),
        ("x5c", foreign.sign_with(&header(json!({"x5c": ["MII"]})), &good), "key of its own (x5c)"),
        ("crit", key.sign_with(&header(json!({"crit": ["exp"]})), &good), "crit"),
        ("b64", key.sign_with(&header(json!({"b64": false})), &good), "crit"),
        ("a token in a token", key.sign_with(&header(json!({"cty": "JWT"})), &good), "token in a token"),
        ("compressed", key.sign_with(&header(json!({"zip": "DEF"})), &good), "token in a token"),
        ("an access token", key.sign_with(&header(json!({"typ": "at+jwt"})), &good), "typ"),
        (
            "a header's name twice",
            key.sign_text("{\"alg\":\"ES256\",\"alg\":\"ES256\",\"kid\":\"1\"}", &good.to_string()),
            "header",
        ),
        ("a claim twice", key.sign_text(&key.header().to_string(), &duplicate), "claims"),
        ("a claim's part twice", key.sign_text(&key.header().to_string(), &nested), "claims"),
        ("claims that are no object", key.sign_text(&key.header().to_string(), "[1]"), "claims"),
        ("claims changed", text(&format!("{}.{changed}.{}", parts[0], parts[2])), "no key of the issuer's"),
        (
            "another issuer",
            claims(json!({"iss": "https://evil.example"})),
            "made by \"https://evil.example\"",
        ),
        ("the issuer and a slash", claims(json!({"iss": format!("{}/", server.url)})), "made by"),
        ("no issuer", claims(json!({"iss": null})), "\"iss\""),
        ("another audience", claims(json!({"aud": "api"})), "made for \"api\""),
        ("an audience that begins so", claims(json!({"aud": "interlock2"})), "made for"),
        ("audiences that are others", claims(json!({"aud": ["a", "b"]})), "made for \"a, b\""),
        ("an audience that is no text", claims(json!({"aud": ["interlock", 1]})), "\"aud\""),
        ("no audience", claims(json!({"aud": null})), "\"aud\""),
        ("expired", claims(json!({"exp": seconds(-61)})), "expired"),
        ("for ever", claims(json!({"exp": null})), "\"exp\""),
        ("an end that is a text", claims(json!({"exp": seconds(600).to_string()})), "\"exp\""),
        ("an end beyond all time", claims(json!({"exp": 1e300})), "\"exp\""),
        ("an end before all time", claims(json!({"exp": -1.5})), "\"exp\""),
        ("not yet", claims(json!({"nbf": seconds(120)})), "does not count before"),
        ("made in the future", claims(json!({"iat": seconds(120)})), "does not count before"),
        ("nobody", claims(json!({"sub": null})), "\"sub\""),
        ("an empty name", claims(json!({"sub": ""})), "\"sub\""),
        ("a name with a line break", claims(json!({"sub": "a\nb"})), "\"sub\""),
        ("a name that is no text", claims(json!({"sub": 7})), "\"sub\""),
    ];
    for (what, token, words) in &cases {
        match issuer.verify(token) {
            Ok(verified) => panic!("{what}: {verified:?}"),
            Err(error) => assert!(error.to_string().contains(words), "{what}: {error}"),
        }
    }
    // Clocks may be a little apart.
    issuer.verify(&claims(json!({"exp": seconds(-30), "iat": seconds(30), "nbf": seconds(30)}))).unwrap();
    issuer.verify(&claims(json!({"aud": ["x", "interlock"], "exp": seconds(600) as f64 + 0.5}))).unwrap();
    // Made-up key ids have not had the keys fetched each time.
    for id in 0..50 {
        let token = foreign.sign_with(&header(json!({"kid": format!("made-up-{id}")})), &good);
        assert!(issuer.verify(&token).is_err());
    }
    assert!(server.times_asked("/keys") <= 3, "{}", server.times_asked("/keys"));
}

#[test]
fn keys_are_rotated() {
    let (server, old, new) = (Server::start(), Key::ec("old"), Key::ed("new"));
    server.publish(&[&old]);
    let issuer = Issuer::new(&server.config()).unwrap();
    issuer.verify(&old.sign(&server.claims())).unwrap();
    server.publish(&[&new]);
    // The unknown key has them fetched; the old one has gone then.
    issuer.verify(&new.sign(&server.claims())).unwrap();
    assert!(matches!(issuer.verify(&old.sign(&server.claims())), Err(VerifyError::Signature)));
}

#[test]
fn an_issuer_that_is_away_is_gone_after_a_while() {
    let (server, key) = (Server::start(), Key::ec("1"));
    server.publish(&[&key]);
    let mut config = server.config();
    config.keys_kept_minutes = 5;
    let issuer = Issuer::new(&config).unwrap();
    let token = key.sign(&server.claims());
    issuer.verify(&token).unwrap();
    server.fall_silent();
    issuer.verify(&token).unwrap();
    // Their time, and the time that they are kept beyond it, is over.
    issuer.keys.age(std::time::Duration::from_secs(12 * 60));
    issuer.verify(&token).unwrap();
    issuer.keys.age(std::time::Duration::from_secs(4 * 60));
    let error = issuer.verify(&token).unwrap_err();
    assert!(matches!(error, VerifyError::Keys(_)), "{error}");
    assert!(error.to_string().contains("status 404"), "{error}");
    // One that was never there.
    let issuer = Issuer::new(&config).unwrap();
    assert!(matches!(issuer.verify(&token), Err(VerifyError::Keys(_))));
}

#[test]
fn metadata_are_the_issuers_own_and_lead_nowhere_else() {
    let (server, key) = (Server::start(), Key::ec("1"));
    let keys = format!("{}/keys", server.url);
    let error = |metadata: Value| {
        server.answer("/.well-known/openid-configuration", 200, &metadata);
        server.answer("/keys", 200, &json!({"keys": [key.jwk()]}));
        Issuer::new(&server.config()).unwrap().verify(&key.sign(&server.claims())).unwrap_err().to_string()
    };
    assert!(error(json!({"issuer": "https://evil.example", "jwks_uri": keys})).contains("another issuer's"));
    assert!(
        error(json!({"issuer": format!("{}/", server.url), "jwks_uri": keys})).contains("another issuer's")
    );
    assert!(error(json!({"issuer": server.url, "jwks_uri": "http://evil.example/"})).contains("without TLS"));
    assert!(error(json!({"issuer": server.url, "jwks_uri": "file:///etc/passwd"})).contains("no address"));
    assert!(error(json!({"issuer": server.url})).contains("jwks_uri"));
    assert!(error(json!([])).contains("metadata"));
    // RFC 8414's place.
    server.fall_silent();
    server.answer(
        "/.well-known/oauth-authorization-server",
        200,
        &json!({"issuer": server.url, "jwks_uri": keys}),
    );
    server.answer("/keys", 200, &json!({"keys": [key.jwk()]}));
    let issuer = Issuer::new(&server.config()).unwrap();
    issuer.verify(&key.sign(&server.claims())).unwrap();
    assert_eq!(issuer.endpoints().unwrap().token_endpoint, None);
}

#[test]
fn keys_in_a_file_need_no_network() {
    let (dir, key) = (tempfile::tempdir().unwrap(), Key::ed("1"));
    let path = dir.path().join("keys.json");
    std::fs::write(&path, json!({"keys": [key.jwk()]}).to_string()).unwrap();
    let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    let issuer = |more: &str| {
        let text = format!(
            "{{name: k8s, kind: workload, audience: interlock, jwks_file: '{}', token: {{file: /token}}, {more}}}",
            path.display()
        );
        Issuer::new(&config(&text)).unwrap()
    };
    let kubernetes = issuer("provider: kubernetes, issuer: 'https://kubernetes.default.svc'");
    let claims = json!({
        "iss": "https://kubernetes.default.svc", "aud": ["interlock"], "sub": "system:serviceaccount:shop:api",
        "iat": seconds(0), "exp": seconds(600),
        "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "api"}, "pod": {"name": "p", "uid": "u"}},
    });
    let verified = kubernetes.verify(&key.sign(&claims)).unwrap();
    assert_eq!((verified.name.as_str(), verified.job.project.as_str()), ("shop/api", "shop"));
    assert_eq!(verified.claim("/kubernetes.io/pod/name"), Some(&"p".into()));
    assert_eq!(verified.recorded["/kubernetes.io/pod/name"], "p");
    let other = with(claims, json!({"kubernetes.io": null}));
    assert!(kubernetes.verify(&key.sign(&other)).is_err());

    // SPIFFE: keys for JWT-SVIDs alone, subjects of the trust domain alone.
    let mut jwk = key.jwk();
    jwk["use"] = "jwt-svid".into();
    std::fs::write(&path, json!({"keys": [jwk], "spiffe_sequence": 1}).to_string()).unwrap();
    let spiffe = issuer("provider: spiffe, trust_domain: prod.example");
    let claims = |sub: &str| json!({"aud": "interlock", "sub": sub, "exp": seconds(600)});
    let verified = spiffe.verify(&key.sign(&claims("spiffe://prod.example/ns/shop/sa/api"))).unwrap();
    assert_eq!(&*verified.issuer, "spiffe://prod.example");
    for sub in [
        "spiffe://prod.example",
        "spiffe://prod.example/",
        "spiffe://prod.example.evil/x",
        "spiffe://other/x",
        "spiffe://prod.example/a//b",
        "spiffe://prod.example/../x",
        "spiffe://prod.example/a%2fb",
        "https://prod.example/x",
        "spiffe://prod.example/x/",
        "SPIFFE://prod.example/x",
    ] {
        assert!(spiffe.verify(&key.sign(&claims(sub))).is_err(), "{sub}");
    }
    std::fs::write(&path, json!({"keys": [key.jwk()]}).to_string()).unwrap();
    assert!(
        issuer("provider: spiffe, trust_domain: prod.example")
            .verify(&key.sign(&claims("spiffe://prod.example/x")))
            .is_err()
    );
    // Others could have put their keys there.
    mode(0o666);
    let error = issuer("provider: kubernetes, issuer: 'https://kubernetes.default.svc'")
        .verify(&key.sign(&with(claims("x"), json!({"iss": "https://kubernetes.default.svc"}))));
    assert!(error.unwrap_err().to_string().contains("others could have written it"));
}

/// A group that is left out is not one that nobody is in.
#[test]
fn groups_that_a_token_does_not_tell_are_not_none() {
    let (server, key) = (Server::start(), Key::ec("1"));
    server.publish(&[&key]);
    let issuer = Issuer::new(&server.config()).unwrap();
    let groups = |more| {
        let verified = issuer.verify(&key.sign(&with(server.claims(), more))).unwrap();
        (verified.groups.join(" "), verified.groups_known)
    };
    let elsewhere =
        json!({"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "x"}}});
    for (claims, expected, known) in [
        (json!({}), "", GroupsKnown::Unsaid),
        (json!({"groups": []}), "", GroupsKnown::All),
        (json!({"groups": ["a", "b", "a"]}), "a b", GroupsKnown::All),
        (json!({"groups": "a"}), "a", GroupsKnown::All),
        (json!({"groups": ["a", 7]}), "a", GroupsKnown::Partly),
        (json!({"groups": ["a", "x".repeat(513)]}), "a", GroupsKnown::Partly),
        (json!({"groups": {"a": true}}), "", GroupsKnown::Partly),
        (elsewhere, "", GroupsKnown::Partly),
        (json!({"hasgroups": true}), "", GroupsKnown::Partly),
    ] {
        let told = claims.to_string();
        assert_eq!(groups(claims), (expected.to_owned(), known), "{told}");
    }
}

/// A rule about a branch is not passed by with a name that is too long to be matched.
#[test]
fn a_job_whose_words_cannot_be_matched_is_nobody() {
    let (server, key) = (Server::start(), Key::ec("1"));
    server.publish(&[&key]);
    let text = format!(
        "{{name: github, kind: workload, provider: github_actions, issuer: '{}', audience: interlock, token: {{variable: T}}}}",
        server.url
    );
    let issuer = Issuer::new(&config(&text)).unwrap();
    let verify = |branch: String| {
        issuer.verify(&key.sign(&with(server.claims(), json!({"ref": branch, "repository": "a/b"}))))
    };
    assert_eq!(verify("refs/heads/feature/x".to_owned()).unwrap().job.branch, "feature/x");
    for branch in [format!("refs/heads/feature/{}", "x".repeat(512)), "refs/heads/feature/\n".to_owned()] {
        assert!(verify(branch).unwrap_err().to_string().contains("\"ref\" is too long"));
    }
}

#[test]
fn jobs_are_read_as_their_system_means_them() {
    let (server, key) = (Server::start(), Key::ec("1"));
    server.publish(&[&key]);
    let job = |provider: &str, claims: Value| {
        let text = format!(
            "{{name: ci, kind: workload, issuer: '{}', audience: interlock, provider: {provider}, token: {{variable: T}}}}",
            server.url
        );
        Issuer::new(&config(&text)).unwrap().verify(&key.sign(&with(server.claims(), claims))).unwrap().job
    };
    let github = |reference: &str| {
        job(
            "github_actions",
            json!({"repository": "shop/api", "ref": reference, "environment": "production", "actor": "ann"}),
        )
    };
    let main = github("refs/heads/main");
    assert_eq!((main.project.as_str(), main.branch.as_str()), ("shop/api", "main"));
    assert_eq!((main.environment.as_str(), main.actor.as_str()), ("production", "ann"));
    // A tag or a pull request is no branch, whatever it is called.
    for reference in ["refs/tags/main", "refs/pull/7/merge", "main", "refs/heads/"] {
        assert_eq!(github(reference).branch, "", "{reference}");
    }
    let gitlab = |more: Value| {
        job("gitlab", with(json!({"project_path": "shop/api", "ref": "main", "ref_type": "branch"}), more))
    };
    assert_eq!(gitlab(json!({})).branch, "main");
    assert_eq!(gitlab(json!({"ref_path": "refs/heads/main"})).branch, "main");
    assert_eq!(gitlab(json!({"ref_type": "tag"})).branch, "");
    assert_eq!(gitlab(json!({"ref_path": "refs/merge-requests/1/head"})).branch, "");
    assert_eq!(gitlab(json!({"pipeline_source": "merge_request_event"})).branch, "");
    let buildkite = |tag: Value| {
        job(
            "buildkite",
            json!({"organization_slug": "shop", "pipeline_slug": "api", "build_branch": "main", "build_tag": tag}),
        )
    };
    assert_eq!(
        (buildkite(Value::Null).project.as_str(), buildkite(Value::Null).branch.as_str()),
        ("shop/api", "main")
    );
    assert_eq!(
        (buildkite("".into()).branch.as_str(), buildkite("main".into()).branch.as_str()),
        ("main", "")
    );
}

#[test]
fn people_are_verified_for_their_client() {
    let (server, key) = (Server::start(), Key::ec("1"));
    server.publish(&[&key]);
    let text = format!("{{name: idp, kind: person, issuer: '{}', client_id: interlock}}", server.url);
    let issuer = Issuer::new(&config(&text)).unwrap();
    let claims = |more: Value| key.sign(&with(server.claims(), more));
    let verified =
        issuer.verify(&claims(json!({"auth_time": 1000, "email": "a@x", "email_verified": true}))).unwrap();
    assert_eq!(verified.authenticated, Timestamp::from_second(1000).ok());
    assert_eq!(verified.name, "a@x");
    assert_eq!(
        issuer.verify(&claims(json!({"email": "a@x"}))).unwrap().name,
        "job:1",
        "anyone may write that"
    );
    issuer.verify(&claims(json!({"aud": ["interlock", "x"], "azp": "interlock"}))).unwrap();
    for bad in
        [json!({"aud": ["interlock", "x"]}), json!({"azp": "x"}), json!({"azp": 1}), json!({"iat": null})]
    {
        assert!(issuer.verify(&claims(bad.clone())).is_err(), "{bad}");
    }
    assert_eq!(issuer.verify(&claims(json!({}))).unwrap().kind, IdentityKind::Person);
    let later = Timestamp::now().checked_add(SignedDuration::from_secs(700)).unwrap();
    assert!(!issuer.verify(&claims(json!({}))).unwrap().is_current(later));
}

#[test]
fn entries_that_cannot_be_worked_with_are_told() {
    let good = "name: a, kind: workload, issuer: 'https://i.example', audience: x, token: {variable: T}";
    assert!(Issuer::new(&config(&format!("{{{good}}}"))).is_ok());
    for (text, words) in [
        ("name: a b, kind: workload", "no word"),
        ("name: a, kind: workload", "no `issuer`"),
        (
            "name: a, kind: workload, issuer: 'https://i.example', token: {variable: T}",
            "whatever it was made for",
        ),
        ("name: a, kind: person, issuer: 'https://i.example'", "`client_id`"),
        (
            "name: a, kind: workload, issuer: 'http://i.example', audience: x, token: {variable: T}",
            "without TLS",
        ),
        (
            "name: a, kind: workload, issuer: 'https://u:p@i.example', audience: x, token: {variable: T}",
            "a password",
        ),
        ("name: a, kind: workload, issuer: 'https://i.example', audience: x", "where a job has its token"),
        (
            "name: a, kind: workload, provider: github_actions, issuer: 'https://i.example', audience: x",
            "request_hosts",
        ),
        ("name: a, kind: workload, provider: spiffe, audience: x, token: {file: /t}", "trust_domain"),
        (
            "name: a, kind: workload, provider: spiffe, trust_domain: 'A/b', audience: x, token: {file: /t}",
            "trust_domain",
        ),
        (
            "name: a, kind: workload, provider: spiffe, trust_domain: a, audience: x, token: {file: /t}",
            "where its keys are",
        ),
        ("name: a, kind: workload, issuer: 'https://i.example', audience: x, token: {file: t}", "absolute"),
        (
            "name: a, kind: workload, issuer: 'https://i.example', audience: x, token: {variable: T}, jwks_file: /a, jwks_uri: 'https://i'",
            "one of them",
        ),
        (
            "name: a, kind: person, provider: gitlab, issuer: 'https://i.example', client_id: x",
            "for workloads",
        ),
        (
            "name: a, kind: person, issuer: 'https://i.example', client_id: x, token: {variable: T}",
            "interlock login",
        ),
    ] {
        let error = Issuer::new(&config(&format!("{{{text}}}"))).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains("u:p"), "{text}: {error}");
    }
    let twice =
        IdentityConfig { issuers: vec![config(&format!("{{{good}}}")), config(&format!("{{{good}}}"))] };
    assert!(Issuers::new(&twice).unwrap_err().to_string().contains("another entry"));
}
