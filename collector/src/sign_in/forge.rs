//! SAML answers made by hand, for tests: right ones, and whatever else they want.

use std::time::SystemTime;

use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

use super::signature::DS;
use super::xml::{canonical, is, parse};

pub(crate) const ISSUER: &str = "https://idp.example/saml";
pub(crate) const OURS: &str = "http://localhost:7480/sign-in/saml/corp";

/// An identity provider's key.
pub(crate) struct Forge {
    pair: EcdsaKeyPair,
    certificate: String,
}

/// What stands in an answer.
#[derive(Clone)]
pub(crate) struct Told {
    pub(crate) request: String,
    pub(crate) assertion: String,
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
    pub(crate) recipient: String,
    pub(crate) destination: String,
    pub(crate) audience: String,
    pub(crate) issuer: String,
    pub(crate) from: i64,
    pub(crate) until: i64,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            request: "_request".into(),
            assertion: "_assertion".into(),
            name: "alice".into(),
            groups: vec!["staff".into()],
            recipient: format!("{OURS}/consume"),
            destination: format!("{OURS}/consume"),
            audience: format!("{OURS}/metadata"),
            issuer: ISSUER.into(),
            from: -5,
            until: 300,
        }
    }
}

fn at(seconds: i64) -> String {
    let now = Timestamp::try_from(SystemTime::now()).unwrap();
    let shifted = now.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap();
    shifted.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Told {
    pub(crate) fn assertion(&self) -> String {
        let Self { request, assertion, name, recipient, audience, issuer, .. } = self;
        let (from, until) = (at(self.from), at(self.until));
        let groups: String = self
            .groups
            .iter()
            .map(|group| format!("<saml:AttributeValue xmlns:xs=\"http://www.w3.org/2001/XMLSchema\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"xs:string\">{group}</saml:AttributeValue>"))
            .collect();
        format!(
            "<saml:Assertion xmlns:saml=\"urn:oasis:names:tc:SAML:2.0:assertion\" ID=\"{assertion}\" Version=\"2.0\" IssueInstant=\"{from}\">\
             <saml:Issuer>{issuer}</saml:Issuer>\
             <saml:Subject><saml:NameID Format=\"urn:oasis:names:tc:SAML:2.0:nameid-format:persistent\">{name}</saml:NameID>\
             <saml:SubjectConfirmation Method=\"urn:oasis:names:tc:SAML:2.0:cm:bearer\">\
             <saml:SubjectConfirmationData InResponseTo=\"{request}\" Recipient=\"{recipient}\" NotOnOrAfter=\"{until}\"/>\
             </saml:SubjectConfirmation></saml:Subject>\
             <saml:Conditions NotBefore=\"{from}\" NotOnOrAfter=\"{until}\"><saml:AudienceRestriction>\
             <saml:Audience>{audience}</saml:Audience></saml:AudienceRestriction></saml:Conditions>\
             <saml:AuthnStatement AuthnInstant=\"{from}\"><saml:AuthnContext/></saml:AuthnStatement>\
             <saml:AttributeStatement><saml:Attribute Name=\"groups\">{groups}</saml:Attribute></saml:AttributeStatement>\
             </saml:Assertion>"
        )
    }

    pub(crate) fn response(&self, inside: &str) -> String {
        format!(
            "<samlp:Response xmlns:samlp=\"urn:oasis:names:tc:SAML:2.0:protocol\" ID=\"_response\" Version=\"2.0\" \
             IssueInstant=\"{}\" Destination=\"{}\" InResponseTo=\"{}\">\
             <saml:Issuer xmlns:saml=\"urn:oasis:names:tc:SAML:2.0:assertion\">{}</saml:Issuer>\
             <samlp:Status><samlp:StatusCode Value=\"urn:oasis:names:tc:SAML:2.0:status:Success\"/></samlp:Status>\
             {inside}</samlp:Response>",
            at(0),
            self.destination,
            self.request,
            self.issuer,
        )
    }
}

impl Forge {
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["idp.example".into()]).unwrap().self_signed(&key).unwrap();
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der(), &random)
            .unwrap();
        Self { pair, certificate: STANDARD.encode(certificate.der()) }
    }

    pub(crate) fn metadata(&self) -> String {
        format!(
            "<md:EntityDescriptor xmlns:md=\"urn:oasis:names:tc:SAML:2.0:metadata\" entityID=\"{ISSUER}\">\
             <md:IDPSSODescriptor protocolSupportEnumeration=\"urn:oasis:names:tc:SAML:2.0:protocol\">\
             <md:KeyDescriptor use=\"signing\"><ds:KeyInfo xmlns:ds=\"{DS}\"><ds:X509Data><ds:X509Certificate>\n{}\n</ds:X509Certificate></ds:X509Data></ds:KeyInfo></md:KeyDescriptor>\
             <md:SingleSignOnService Binding=\"urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect\" Location=\"https://idp.example/sso?a=b\"/>\
             </md:IDPSSODescriptor></md:EntityDescriptor>",
            self.certificate
        )
    }

    /// `text` with its element of this ID signed, the signature after its issuer.
    pub(crate) fn sign(&self, text: &str, id: &str) -> String {
        self.sign_as(text, id, |signature| signature.to_owned())
    }

    /// The same, with the signature changed before it is computed.
    pub(crate) fn sign_as(&self, text: &str, id: &str, change: impl Fn(&str) -> String) -> String {
        let document = parse(text).unwrap();
        let signed = document.descendants().find(|node| node.attribute("ID") == Some(id)).unwrap();
        let digest =
            ring::digest::digest(&ring::digest::SHA256, canonical(signed, None, &["xs"]).unwrap().as_bytes());
        let issuer = signed.children().find(|node| node.tag_name().name() == "Issuer").unwrap();
        let exclusive = "http://www.w3.org/2001/10/xml-exc-c14n#";
        let signature = change(&format!(
            "<ds:Signature xmlns:ds=\"{DS}\"><ds:SignedInfo><ds:CanonicalizationMethod Algorithm=\"{exclusive}\"/>\
             <ds:SignatureMethod Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256\"/>\
             <ds:Reference URI=\"#{id}\"><ds:Transforms>\
             <ds:Transform Algorithm=\"http://www.w3.org/2000/09/xmldsig#enveloped-signature\"/>\
             <ds:Transform Algorithm=\"{exclusive}\"><ec:InclusiveNamespaces xmlns:ec=\"{exclusive}\" PrefixList=\"xs\"/></ds:Transform>\
             </ds:Transforms><ds:DigestMethod Algorithm=\"http://www.w3.org/2001/04/xmlenc#sha256\"/>\
             <ds:DigestValue>{}</ds:DigestValue></ds:Reference></ds:SignedInfo>\
             <ds:SignatureValue>VALUE</ds:SignatureValue></ds:Signature>",
            STANDARD.encode(digest)
        ));
        let end = issuer.range().end;
        let with = format!("{}{signature}{}", &text[..end], &text[end..]);
        let document = parse(&with).unwrap();
        let info =
            document.descendants().find(|node| is(*node, DS, "SignedInfo") && node.range().start >= end);
        let message = canonical(info.unwrap(), None, &[]).unwrap();
        let value = self.pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        with.replacen("VALUE", &STANDARD.encode(value.as_ref()), 1)
    }

    /// A right answer, with the assertion signed.
    pub(crate) fn answer(&self, told: &Told) -> String {
        self.sign(&told.response(&told.assertion()), &told.assertion)
    }

    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }
}

/// As a browser posts it.
pub(crate) fn posted(answer: &str) -> String {
    STANDARD.encode(answer)
}

/// Documents that are no longer than one may be, and much work for who parses them: very many attributes of one
/// element, and very many namespaces that are in use around very many elements.
pub(crate) fn laborious() -> (String, String) {
    let attributes: String = (0..26_000).map(|at| format!(" a{at}=''")).collect();
    let spaces: String = (0..900).map(|at| format!(" xmlns:n{at}='u:{at}' n{at}:a=''")).collect();
    (format!("<a{attributes}/>"), format!("<a{spaces}>{}</a>", "<b/>".repeat(4000)))
}
