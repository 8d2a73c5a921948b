//! SAML 2.0, with pysaml2, which signs with xmlsec1.

use std::process::Command;

use interlock_tests::cache;
use serde_json::json;

use super::{Site, drive, file, start, trail};

#[tokio::test(flavor = "multi_thread")]
async fn people_sign_in_by_saml() {
    for signs in ["assertion", "response", "both"] {
        let mut site = Site::new().await;
        let people = json!({"alice": ["staff", "sre"], "bob": ["staff"], "mallory": []});
        let mut command = Command::new(cache::saml().join("bin/python"));
        command.args(["-W", "ignore"]);
        command.arg(file("idp.py")).arg(site.directory.path());
        command.arg(format!("{}/sign-in/saml/corp/metadata", site.base)).args([&people.to_string(), signs]);
        let (_provider, said) = start(&mut command);
        let sign_in = json!({"saml": [{
            "name": "corp", "label": "Corp", "metadata_file": said["metadata"], "name_attribute": "mail",
            "roles": {"admin": ["sre"], "viewer": ["staff"]},
        }]});
        let intake = site.serve(&sign_in.to_string()).await;
        let steps = json!([
            {"provider": "Corp", "name": "alice", "role": "admin"},
            {"provider": "Corp", "name": "bob", "role": "viewer"},
            {"provider": "Corp", "name": "mallory", "refused": "none of your groups there (0) has a role here"},
            {"provider": "Corp", "name": "alice", "role": "admin"},
        ]);
        let said = drive(&site, "sign-in-saml", &steps).await;
        assert_eq!(said[..3], ["signed in alice", "signed in bob", "refused mallory"], "{signs}");
        let trail = trail(&intake).await;
        let count = |text: &str| trail.iter().filter(|line| line.contains(text)).count();
        assert_eq!(
            count("corp user.add corp:alice@example.com role admin by the group sre of corp"),
            1,
            "{trail:#?}"
        );
        assert_eq!(
            count("corp:alice@example.com sign_in corp role admin by the group sre of corp"),
            2,
            "{trail:#?}"
        );
    }
}
