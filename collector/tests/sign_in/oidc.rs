//! OpenID Connect, with `oidc-provider`.

use serde_json::json;

use super::{Program, Site, drive, node, start, trail};

fn provider(site: &Site, in_token: bool) -> (Program, String) {
    let people = json!({"alice": ["staff", "sre"], "bob": ["staff"], "mallory": ["interns"]});
    let mut command = node("provider.mjs");
    command.arg(format!("{}/sign-in/oidc/okta/callback", site.base));
    command.arg(format!("{}/sign-in", site.base)).args([people.to_string(), in_token.to_string()]);
    let (program, said) = start(&mut command);
    (program, said["issuer"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn people_sign_in_by_openid_connect() {
    // Groups stand in the ID token with some providers, and have to be asked for with others.
    for in_token in [true, false] {
        let mut site = Site::new().await;
        let (_provider, issuer) = provider(&site, in_token);
        let secret = site.write("secret", "a secret that the provider and the collector know\n");
        let sign_in = json!({"local": false, "oidc": [{
            "name": "okta", "label": "Okta", "issuer": issuer, "client_id": "interlock",
            "client_secret_file": secret, "roles": {"admin": ["sre"], "viewer": ["staff"]},
        }]});
        let intake = site.serve(&sign_in.to_string()).await;
        let steps = json!([
            {"provider": "Okta", "name": "alice", "role": "admin"},
            {"provider": "Okta", "name": "bob", "role": "viewer"},
            {"provider": "Okta", "name": "mallory", "refused": "none of your groups there (1) has a role here"},
            {"provider": "Okta", "name": "alice", "role": "admin"},
        ]);
        let said = drive(&site, "sign-in-oidc", &steps).await;
        assert_eq!(said[..3], ["signed in alice", "signed in bob", "refused mallory"]);
        let trail = trail(&intake).await;
        let count = |text: &str| trail.iter().filter(|line| line.contains(text)).count();
        assert_eq!(
            count("okta user.add okta:alice@example.com role admin by the group sre of okta"),
            1,
            "{trail:#?}"
        );
        assert_eq!(
            count("okta:alice@example.com sign_in okta role admin by the group sre of okta"),
            2,
            "{trail:#?}"
        );
        assert_eq!(
            count("unknown sign_in.refused okta okta:mallory@example.com: none of their groups (1)"),
            1,
            "{trail:#?}"
        );
        assert_eq!(count("okta:bob@example.com sign_out"), 1);
        assert!(intake.store.user("okta:mallory@example.com").await.unwrap().is_none());
    }
}
