//! Answers that a provider would not give, and those that it would.

use super::super::forge::{Forge, ISSUER, OURS, Told, posted};
use super::*;

fn provider(forge: &Forge) -> SamlProvider {
    let (issuer, sign_in, keys) = metadata(&forge.metadata()).unwrap();
    let config: Saml =
        serde_saphyr::from_str("{name: corp, metadata_file: /nowhere, roles: {viewer: [staff]}}").unwrap();
    SamlProvider {
        config,
        entity_id: format!("{OURS}/metadata"),
        consumer: format!("{OURS}/consume"),
        issuer,
        sign_in,
        keys,
    }
}

fn evil() -> Told {
    Told { assertion: "_evil".into(), name: "root".into(), groups: vec!["sre".into()], ..Told::default() }
}

/// The text of the first `name` element of `text`, whole.
fn cut<'t>(text: &'t str, name: &str) -> &'t str {
    let begin = text.find(&format!("<{name}")).unwrap();
    let end = text.rfind(&format!("</{name}>")).unwrap() + name.len() + 3;
    &text[begin..end]
}

#[track_caller]
fn refused(provider: &SamlProvider, answer: &str, why: &str) {
    match provider.consume(&posted(answer)) {
        Ok(proven) => panic!("{why}: it was believed: {proven:?}\n{answer}"),
        Err(error) => assert!(error.to_string().contains(why), "{why}: {error}"),
    }
}

#[test]
fn what_is_signed_is_believed() {
    let forge = Forge::new();
    let provider = provider(&forge);
    let told = Told::default();
    let plain = told.response(&told.assertion());
    let both = forge.sign(&plain, "_assertion");
    for (answer, what) in [
        (forge.answer(&told), "the assertion"),
        (forge.sign(&plain, "_response"), "the response"),
        (forge.sign(&both, "_response"), "both"),
    ] {
        let proven = provider.consume(&posted(&answer)).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(proven.request, "_request");
        assert_eq!(proven.identity.issuer, format!("saml:{ISSUER}"));
        assert_eq!(
            (proven.identity.subject.as_str(), proven.identity.called.as_str()),
            ("persistent  alice", "alice")
        );
        assert_eq!(proven.identity.groups, ["staff"]);
    }
    // Clocks may be a little apart.
    for told in [Told { from: 40, ..Told::default() }, Told { until: -40, ..Told::default() }] {
        provider.consume(&posted(&forge.answer(&told))).unwrap();
    }
}

/// The eight ways of "On Breaking SAML: Be Whoever You Want to Be" (Somorovsky and others, 2012) to move what is
/// signed to where it is verified but not read, and some more.
#[test]
fn what_is_wrapped_is_refused() {
    let forge = Forge::new();
    let provider = provider(&forge);
    let told = Told::default();
    let plain = told.response(&told.assertion());
    let by_response = forge.sign(&plain, "_response");
    let by_assertion = forge.answer(&told);
    let evil = evil();
    let (signed, unsigned) = (cut(&by_assertion, "saml:Assertion"), told.assertion());
    let signature = cut(&by_assertion, "ds:Signature");
    let evil_plain = evil.assertion();
    // The evil assertion with the signature of the other.
    let evil_signed = evil_plain.replacen("</saml:Issuer>", &format!("</saml:Issuer>{signature}"), 1);
    let same_id = evil_plain.replace("_evil", "_assertion");
    let response_signature = cut(&by_response, "ds:Signature");
    let evil_response = |signature: &str| {
        let text = evil.response(&evil_plain).replace("_response", "_evil-response");
        text.replacen("</saml:Issuer>", &format!("</saml:Issuer>{signature}"), 1)
    };
    let into_signature = |inside: &str, signature: &str| {
        signature.replace("</ds:Signature>", &format!("<ds:Object>{inside}</ds:Object></ds:Signature>"))
    };
    let after = |inside: &str| evil.response(inside);
    let within =
        |outer: &str, inner: &str| outer.replace("</saml:Assertion>", &format!("{inner}</saml:Assertion>"));
    let attacks = [
        ("1: the response in the signature", evil_response(&into_signature(&plain, response_signature))),
        ("2: the response beside the signature", evil_response(&format!("{plain}{response_signature}"))),
        ("3: a second assertion before", after(&format!("{evil_plain}{signed}"))),
        ("3: a second assertion after", after(&format!("{signed}{evil_plain}"))),
        ("4: the assertion in the other", after(&within(&evil_plain, signed))),
        ("5: the signature moved to the other", after(&format!("{evil_signed}{unsigned}"))),
        ("6: the assertion in the moved signature", {
            after(&evil_plain.replacen(
                "</saml:Issuer>",
                &format!(
                    "</saml:Issuer>{}",
                    signature.replace("</ds:Signature>", &format!("{unsigned}</ds:Signature>"))
                ),
                1,
            ))
        }),
        (
            "7: the other in extensions",
            after(&format!("<samlp:Extensions>{evil_plain}</samlp:Extensions>{signed}")),
        ),
        ("8: the assertion in an object", {
            after(&evil_plain.replacen(
                "</saml:Issuer>",
                &format!("</saml:Issuer>{}", into_signature(&unsigned, signature)),
                1,
            ))
        }),
        (
            "the signed one in extensions",
            after(&format!("<samlp:Extensions>{signed}</samlp:Extensions>{evil_plain}")),
        ),
        (
            "the signed one in the status",
            after(&evil_plain).replace(
                "</samlp:Status>",
                &format!("<samlp:StatusDetail>{signed}</samlp:StatusDetail></samlp:Status>"),
            ),
        ),
        ("two of one ID", after(&format!("{same_id}{signed}"))),
        ("the signature alone", after(&evil_signed)),
        ("the signature of one ID", after(&evil_signed.replace("_evil", "_assertion"))),
        (
            "ids of another name",
            after(&format!(
                "{}{signed}",
                evil_signed.replace(" ID=\"_evil\"", " Id=\"_assertion\" ID=\"_evil\"")
            )),
        ),
        (
            "of another namespace",
            after(&format!(
                "{}{signed}",
                evil_plain.replace(
                    "xmlns:saml=\"urn:oasis:names:tc:SAML:2.0:assertion\"",
                    "xmlns:saml=\"urn:evil\""
                )
            )),
        ),
        ("an assertion in a signed response, altered", by_response.replace(">staff<", ">sre<")),
        ("no signature", plain.clone()),
        (
            "a response in the response",
            by_response.replace("<samlp:Status>", &format!("{}<samlp:Status>", evil_response(""))),
        ),
        (
            "a signature that signs everything (URI \"\")",
            forge.sign_as(&plain, "_assertion", |signature| signature.replace("#_assertion", "")),
        ),
        (
            "a signature of something else",
            forge.sign_as(&plain, "_assertion", |signature| signature.replace("#_assertion", "#_response")),
        ),
    ];
    for (what, answer) in attacks {
        assert!(parse(&answer).is_ok(), "{what}: the test made no XML: {answer}");
        if let Ok(proven) = provider.consume(&posted(&answer)) {
            panic!("{what}: it was believed: {proven:?}");
        }
    }
}

#[test]
fn what_is_altered_or_signed_by_another_is_refused() {
    let forge = Forge::new();
    let provider = provider(&forge);
    let told = Told::default();
    let answer = forge.answer(&told);
    for (from, to, why) in [
        (">staff<", ">sre<", "was altered"),
        (">alice<", ">root<", "was altered"),
        ("Version=\"2.0\" IssueInstant=\"", "Version=\"2.0\" IssueInstant=\"2", "was altered"),
        ("<ds:DigestValue>", "<ds:DigestValue>AAAA", "was altered"),
        ("</ds:DigestValue>", "<!-- --></ds:DigestValue>", ""),
        ("<ds:SignatureValue>", "<ds:SignatureValue>AAAA", "by none of the certificates"),
        ("PrefixList=\"xs\"", "PrefixList=\"xs saml\"", "by none of the certificates"),
        ("ecdsa-sha256", "rsa-sha256", "by none of the certificates"),
    ] {
        let altered = match from {
            "Version=\"2.0\" IssueInstant=\"" => {
                let (response, assertion) = answer.split_at(answer.find("<saml:Assertion").unwrap());
                format!("{response}{}", assertion.replacen(from, to, 1))
            }
            _ => answer.replacen(from, to, 1),
        };
        assert_ne!(altered, answer, "{from}");
        // A comment changes nothing that is signed, and nothing that is read.
        if why.is_empty() {
            provider.consume(&posted(&altered)).unwrap();
        } else {
            refused(&provider, &altered, why);
        }
    }
    // Comments do not cut off what stands behind them.
    let long = Told { name: "alice.evil.example".into(), ..Told::default() };
    let answer = forge.answer(&long).replace(">alice.evil", ">alice<!-- -->.evil");
    assert_eq!(provider.consume(&posted(&answer)).unwrap().identity.called, "alice.evil.example");

    // Someone else's key, even if they bring its certificate along.
    let thief = Forge::new();
    refused(&provider, &thief.answer(&told), "by none of the certificates");
    let info = format!(
        "<ds:KeyInfo><ds:X509Data><ds:X509Certificate>{}</ds:X509Certificate></ds:X509Data></ds:KeyInfo></ds:Signature>",
        thief.certificate()
    );
    let brought = thief.sign_as(&told.response(&told.assertion()), "_assertion", |signature| {
        signature.replace("</ds:Signature>", &info)
    });
    refused(&provider, &brought, "by none of the certificates");
    // One signature that is right does not make up for one that is not.
    let both = thief.sign(&forge.answer(&told), "_response");
    refused(&provider, &both, "by none of the certificates");

    // Signatures of another shape than they should have.
    let plain = told.response(&told.assertion());
    for (from, to, why) in [
        ("xmldsig-more#ecdsa-sha256", "xmldsig#hmac-sha1", "not taken as a signature"),
        ("2001/04/xmldsig-more#ecdsa-sha256", "2000/09/xmldsig#rsa-sha1", "not taken as a signature"),
        ("2001/04/xmlenc#sha256", "2000/09/xmldsig#sha1", "not taken as a digest"),
        (
            "<ds:CanonicalizationMethod Algorithm=\"http://www.w3.org/2001/10/xml-exc-c14n#\"/>",
            "<ds:CanonicalizationMethod Algorithm=\"http://www.w3.org/TR/2001/REC-xml-c14n-20010315\"/>",
            "exclusive",
        ),
        ("xmldsig#enveloped-signature", "xmldsig#base64", "other transformations"),
        (
            "<ds:Transforms>",
            "<ds:Transforms><ds:Transform Algorithm=\"http://www.w3.org/TR/1999/REC-xslt-19991116\"/>",
            "other transformations",
        ),
        (
            "<ds:Transform Algorithm=\"http://www.w3.org/2000/09/xmldsig#enveloped-signature\"/>",
            "<ds:Transform Algorithm=\"http://www.w3.org/2000/09/xmldsig#enveloped-signature\"><ds:XPath>x</ds:XPath></ds:Transform>",
            "other transformations",
        ),
        ("</ds:Reference>", "</ds:Reference><ds:Reference URI=\"#_response\"/>", "exactly one thing"),
        ("<ds:SignedInfo>", "<ds:SignedInfo/><ds:SignedInfo>", "other parts"),
        ("</ds:SignatureValue>", "</ds:SignatureValue><ds:Object/>", "objects"),
        ("ec:InclusiveNamespaces", "ec:Whatever", "parameters that are not known"),
    ] {
        let answer = forge.sign_as(&plain, "_assertion", |signature| {
            let changed = signature.replace(from, to);
            assert_ne!(changed, signature, "{from}");
            changed
        });
        refused(&provider, &answer, why);
    }
}

#[test]
fn what_is_for_others_or_another_time_is_refused() {
    let forge = Forge::new();
    let provider = provider(&forge);
    let other = || "https://other.example".to_owned();
    for (told, why) in [
        (Told { audience: other(), ..Told::default() }, "Audience"),
        (Told { recipient: other(), ..Told::default() }, "Recipient"),
        (Told { destination: other(), ..Told::default() }, "Destination"),
        (Told { issuer: other(), ..Told::default() }, "another provider"),
        (Told { from: 120, ..Told::default() }, "NotBefore"),
        (Told { until: -120, ..Told::default() }, "NotOnOrAfter"),
        (Told { name: " ".into(), ..Told::default() }, "NameID is empty"),
        (Told { name: "<b>x</b>".into(), ..Told::default() }, "more than text"),
    ] {
        let plain = told.response(&told.assertion());
        refused(&provider, &forge.sign(&plain, "_assertion"), why);
    }
    let told = Told::default();
    // What the provider itself would have to leave out or add.
    for (from, to, why) in [
        (
            "<saml:AudienceRestriction><saml:Audience>",
            "<saml:OneTimeUse/><saml:AudienceRestriction><saml:Audience>x",
            "Audience",
        ),
        (" InResponseTo=\"_request\" Recipient", " Recipient", "nobody has asked"),
        ("cm:bearer", "cm:sender-vouches", "SubjectConfirmation"),
        (
            "<saml:AuthnStatement ",
            "<saml:AuthnStatement SessionNotOnOrAfter=\"2020-01-01T00:00:00Z\" ",
            "has ended",
        ),
        ("nameid-format:persistent", "nameid-format:transient", "transient"),
        ("<saml:Conditions ", "<saml:Conditions Not=\"\" ", ""),
        (
            "<saml:AudienceRestriction>",
            "<saml:Condition/><saml:AudienceRestriction>",
            "condition that is not known",
        ),
        ("</saml:NameID>", "</saml:NameID><saml:NameID>root</saml:NameID>", "NameID twice"),
        ("</saml:NameID>", "<!-- a --><saml:b/></saml:NameID>", "more than text"),
        ("NotOnOrAfter=\"", "NotOnOrAfter=\"soon", "no time"),
        ("ID=\"_assertion\" Version=\"2.0\"", "ID=\"_assertion\" Version=\"1.1\"", "SAML 2.0"),
    ] {
        let assertion = told.assertion().replace(from, to);
        assert_ne!(assertion, told.assertion(), "{from}");
        let answer = forge.sign(&told.response(&assertion), "_assertion");
        if why.is_empty() {
            provider.consume(&posted(&answer)).unwrap();
        } else {
            refused(&provider, &answer, why);
        }
    }
    // A response that answers something else than its assertion, that failed, or that is encrypted.
    let response = forge.answer(&told);
    for (from, to, why) in [
        (
            "InResponseTo=\"_request\"><saml:Issuer",
            "InResponseTo=\"_other\"><saml:Issuer",
            "different requests",
        ),
        (
            "status:Success\"/>",
            "status:Responder\"><samlp:StatusCode Value=\"urn:oasis:names:tc:SAML:2.0:status:AuthnFailed\"/></samlp:StatusCode><samlp:StatusMessage>\u{202e}no &lt;b&gt;</samlp:StatusMessage>",
            "refused: AuthnFailed \u{fffd}no <b>",
        ),
        (
            "<samlp:Status>",
            "<saml:EncryptedAssertion xmlns:saml=\"urn:oasis:names:tc:SAML:2.0:assertion\"/><samlp:Status>",
            "encrypted",
        ),
        ("<samlp:Status>", "<?x y?><samlp:Status>", "processing instruction"),
        (
            "<samlp:Response ",
            "<!DOCTYPE r [<!ENTITY e SYSTEM \"file:///etc/passwd\">]><samlp:Response ",
            "document type",
        ),
        ("samlp:Response", "samlp:LogoutResponse", "no SAML response"),
    ] {
        let altered = response.replace(from, to);
        assert_ne!(altered, response, "{from}");
        refused(&provider, &altered, why);
    }
    for garbage in ["", "%%%", "bm90IHhtbA==", &STANDARD.encode([0xff, 0xfe])] {
        assert!(provider.consume(garbage).is_err());
    }
}

#[test]
fn requests_are_deflated_and_metadata_is_read_strictly() {
    let forge = Forge::new();
    let provider = provider(&forge);
    let begun = Begun::from_kept("kept");
    let url = provider.begin(&begun, false);
    assert!(url.starts_with("https://idp.example/sso?a=b&SAMLRequest="), "{url}");
    let request = form_urlencoded::parse(url.split_once('?').unwrap().1.as_bytes())
        .find(|(name, _)| name == "SAMLRequest")
        .unwrap()
        .1
        .into_owned();
    let request = STANDARD.decode(request).unwrap();
    let xml = String::from_utf8(request[5..].to_vec()).unwrap();
    assert!(parse(&xml).is_ok() && xml.contains(&SamlProvider::request_id(&begun)), "{xml}");
    assert!(parse(provider.metadata().split_once('\n').unwrap().1).is_ok());

    let good = forge.metadata();
    for (from, to, why) in [
        ("IDPSSODescriptor", "SPSSODescriptor", "exactly one"),
        ("https://idp.example/sso", "http://idp.example/sso", "https"),
        ("https://idp.example/sso", "javascript:alert(1)//", "https"),
        ("HTTP-Redirect", "SOAP", "HTTP-Redirect"),
        ("use=\"signing\"", "use=\"encryption\"", "no certificate"),
        (
            "<md:IDPSSODescriptor ",
            "<md:IDPSSODescriptor WantAuthnRequestsSigned=\"true\" ",
            "signed requests",
        ),
        ("<ds:X509Certificate>", "<ds:X509Certificate>AAAA", "certificate"),
        ("entityID=", "entity=", "entityID"),
    ] {
        let error = metadata(&good.replace(from, to)).expect_err(from);
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
}

#[test]
fn long_streams_are_stored_in_blocks() {
    let stream = stored(&vec![7; 70_000]);
    assert_eq!(stream.len(), 70_010);
    assert_eq!(stream[..5], [0, 0xff, 0xff, 0, 0]);
    assert_eq!(stream[65_540], 1);
}

/// Whatever is done to an answer on its way, what is believed of it is what was signed.
#[test]
fn no_change_of_a_character_changes_what_is_believed() {
    let forge = Forge::new();
    let provider = provider(&forge);
    let told = Told::default();
    let plain = told.response(&told.assertion());
    for answer in [forge.answer(&told), forge.sign(&plain, "_response")] {
        let right = provider.consume(&posted(&answer)).unwrap();
        let (mut believed, mut tried) = (0, 0);
        for at in (0..answer.len()).step_by(2) {
            let (before, after) = (&answer[..at], &answer[at + 1..]);
            for changed in [
                format!("{before}{after}"),
                format!("{before}x{after}"),
                format!("{before}<!---->{}", &answer[at..]),
                before.to_owned(),
            ] {
                tried += 1;
                if let Ok(proven) = provider.consume(&posted(&changed)) {
                    believed += 1;
                    assert_eq!(proven.identity.subject, right.identity.subject, "{changed}");
                    assert_eq!(proven.identity.groups, right.identity.groups, "{changed}");
                    assert_eq!(
                        (&proven.request, &proven.assertion),
                        (&right.request, &right.assertion),
                        "{changed}"
                    );
                }
            }
        }
        assert!(believed > 0 && believed < tried / 4, "{believed} of {tried} were believed");
    }
}
