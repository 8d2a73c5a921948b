//! SAML 2.0: the service provider's side of the web browser profile. Requests go by redirection, unsigned;
//! answers come by POST, signed, about who is asked for and nobody else.

use std::time::{Duration, SystemTime};

use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD;
use anyhow::Context as _;
use jiff::Timestamp;
use roxmltree::Node;
use serde::{Deserialize, Serialize};

use super::config::{Saml, is_safe};
use super::signature::{DS, Key, base64, verify};
use super::xml::{XmlError, elements, escaped, is, one, parse, text, the};
use super::{Begun, Identity, MOST_GROUPS, said};

const SAML: &str = "urn:oasis:names:tc:SAML:2.0:assertion";
const PROTOCOL: &str = "urn:oasis:names:tc:SAML:2.0:protocol";
const METADATA: &str = "urn:oasis:names:tc:SAML:2.0:metadata";
const REDIRECT: &str = "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect";
const POST: &str = "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST";
const BEARER: &str = "urn:oasis:names:tc:SAML:2.0:cm:bearer";
const SUCCESS: &str = "urn:oasis:names:tc:SAML:2.0:status:Success";
const TRANSIENT: &str = "urn:oasis:names:tc:SAML:2.0:nameid-format:transient";
/// How far the clocks of provider and collector may be apart.
const SKEW: Duration = Duration::from_secs(60);

/// An answer that signs nobody in.
#[derive(Debug, thiserror::Error)]
#[error("the provider's answer cannot be trusted: {0}")]
pub struct SamlError(String);

impl From<XmlError> for SamlError {
    fn from(error: XmlError) -> Self {
        Self(error.0)
    }
}

fn wrong<T>(text: impl Into<String>) -> Result<T, SamlError> {
    Err(SamlError(text.into()))
}

/// What an answer proves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Proven {
    /// By which provider.
    pub provider: String,
    /// Who it is.
    pub identity: Identity,
    /// The request that it answers.
    pub request: String,
    /// The assertion, which counts once.
    pub assertion: String,
    /// Until when it counts, nanoseconds since the Unix epoch.
    pub until_ns: i64,
}

/// An identity provider of SAML 2.0.
#[derive(Debug)]
pub struct SamlProvider {
    config: Saml,
    /// The collector's entity id, and where answers come to.
    entity_id: String,
    consumer: String,
    /// The provider's.
    issuer: String,
    sign_in: String,
    keys: Vec<Key>,
}

impl SamlProvider {
    /// Reads the provider's metadata.
    ///
    /// # Errors
    /// The file cannot be read, or is not the metadata of one identity provider that can be used.
    pub(super) fn new(config: &Saml, url: &str) -> anyhow::Result<Self> {
        let path = config.metadata_file.display();
        let text = std::fs::read_to_string(&config.metadata_file)
            .with_context(|| format!("sign_in: {}: metadata_file {path}", config.name))?;
        let (issuer, sign_in, keys) = metadata(&text).map_err(|error| {
            anyhow::anyhow!("sign_in: {}: metadata_file {path}: {}", config.name, error.0)
        })?;
        let own = format!("{url}/sign-in/saml/{}", config.name);
        let entity_id = config.entity_id.clone().unwrap_or_else(|| format!("{own}/metadata"));
        Ok(Self {
            config: config.clone(),
            entity_id,
            consumer: format!("{own}/consume"),
            issuer,
            sign_in,
            keys,
        })
    }

    pub(super) fn config(&self) -> &Saml {
        &self.config
    }

    /// As it stands in identities. Not the same namespace as issuers of OpenID Connect, which may be called the
    /// same.
    pub(super) fn issuer(&self) -> String {
        format!("saml:{}", self.issuer)
    }

    /// The collector's metadata, for the provider.
    pub fn metadata(&self) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <md:EntityDescriptor xmlns:md=\"{METADATA}\" entityID=\"{}\">\n \
             <md:SPSSODescriptor AuthnRequestsSigned=\"false\" WantAssertionsSigned=\"true\" \
             protocolSupportEnumeration=\"{PROTOCOL}\">\n  \
             <md:AssertionConsumerService Binding=\"{POST}\" Location=\"{}\" index=\"0\" isDefault=\"true\"/>\n \
             </md:SPSSODescriptor>\n</md:EntityDescriptor>\n",
            escaped(&self.entity_id),
            escaped(&self.consumer)
        )
    }

    /// The id of the request of a sign-in that has begun.
    pub fn request_id(begun: &Begun) -> String {
        format!("_{}", begun.nonce)
    }

    /// Where to send the browser; `again` when who they are is to be shown there anew.
    pub fn begin(&self, begun: &Begun, again: bool) -> String {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let request = format!(
            "<samlp:AuthnRequest xmlns:samlp=\"{PROTOCOL}\" xmlns:saml=\"{SAML}\" ID=\"{}\" Version=\"2.0\" \
             IssueInstant=\"{now}\"{} Destination=\"{}\" AssertionConsumerServiceURL=\"{}\" \
             ProtocolBinding=\"{POST}\"><saml:Issuer>{}</saml:Issuer></samlp:AuthnRequest>",
            Self::request_id(begun),
            if again { " ForceAuthn=\"true\"" } else { "" },
            escaped(&self.sign_in),
            escaped(&self.consumer),
            escaped(&self.entity_id),
        );
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("SAMLRequest", &STANDARD.encode(stored(request.as_bytes())))
            .append_pair("RelayState", &begun.state)
            .finish();
        let joint = if self.sign_in.contains('?') { '&' } else { '?' };
        format!("{}{joint}{query}", self.sign_in)
    }

    /// What an answer, as it was posted, proves.
    ///
    /// # Errors
    /// It proves nothing.
    pub fn consume(&self, posted: &str) -> Result<Proven, SamlError> {
        let bytes = base64(posted)?;
        let Ok(text) = String::from_utf8(bytes) else { return wrong("it is no UTF-8") };
        self.check(&text, SystemTime::now())
    }

    fn check(&self, answer: &str, now: SystemTime) -> Result<Proven, SamlError> {
        let document = parse(answer)?;
        let response = document.root_element();
        if !is(response, PROTOCOL, "Response") {
            return wrong("it is no SAML response");
        }
        let assertion = self.only_assertion(response)?;
        self.check_response(response)?;
        // Everything from here on is read from what was signed, and from nothing else.
        let signed = self.signed(response, assertion)?;
        let document = parse(&signed)?;
        let root = document.root_element();
        let assertion = if is(root, SAML, "Assertion") {
            root
        } else {
            self.check_response(root)?;
            the(root, SAML, "Assertion")?
        };
        self.check_assertion(assertion, response.attribute("InResponseTo"), now)
    }

    /// The one assertion of a response. A second one anywhere in it, or a second response, is an attack.
    fn only_assertion<'n, 'i>(&self, response: Node<'n, 'i>) -> Result<Node<'n, 'i>, SamlError> {
        let mut ids: Vec<&str> = Vec::new();
        let (mut assertions, mut signatures) = (0, 0);
        for node in response.descendants().filter(Node::is_element) {
            // Attributes of other names that some take for ids must not be any.
            ids.extend(node.attributes().filter(|a| a.name().eq_ignore_ascii_case("id")).map(|a| a.value()));
            let name = node.tag_name().name();
            match name {
                "EncryptedAssertion" | "EncryptedID" | "EncryptedAttribute" => {
                    return wrong(
                        "it is encrypted, which is not supported: turn encryption of assertions off at the provider",
                    );
                }
                "Assertion" => assertions += 1,
                "Response" if node != response => return wrong("it has a response within the response"),
                "Signature" => {
                    signatures += 1;
                    let place = node.parent_element();
                    if !place.is_some_and(|place| place == response || is(place, SAML, "Assertion")) {
                        return wrong("it has a signature in a place of its own");
                    }
                }
                "Object" | "Manifest" => return wrong("it has a signature with objects"),
                _ => {}
            }
        }
        ids.sort_unstable();
        if ids.windows(2).any(|pair| matches!(pair, [first, second] if first == second)) {
            return wrong("it has an ID twice");
        }
        if assertions != 1 || signatures == 0 || signatures > 2 {
            return wrong(match assertions {
                0 => "it has no assertion",
                1 if signatures == 0 => "it is not signed",
                1 => "it has too many signatures",
                _ => "it has more than one assertion",
            });
        }
        Ok(the(response, SAML, "Assertion")?)
    }

    /// The signed bytes that the assertion is in. Every signature that there is must be right.
    fn signed(&self, response: Node<'_, '_>, assertion: Node<'_, '_>) -> Result<String, SamlError> {
        let mut found = None;
        for place in [response, assertion] {
            if let Some(signature) = one(place, DS, "Signature")? {
                found = Some(verify(place, signature, &self.keys)?);
            }
        }
        found.ok_or_else(|| SamlError("it is not signed".into()))
    }

    fn check_response(&self, response: Node<'_, '_>) -> Result<(), SamlError> {
        if response.attribute("Version") != Some("2.0") {
            return wrong("it is not of SAML 2.0");
        }
        if response.attribute("Destination").is_some_and(|destination| destination != self.consumer) {
            return wrong("it was made for another place (Destination)");
        }
        if let Some(issuer) = one(response, SAML, "Issuer")?
            && text(issuer)? != self.issuer
        {
            return wrong("it is another provider's (Issuer)");
        }
        let status = the(response, PROTOCOL, "Status")?;
        let code = the(status, PROTOCOL, "StatusCode")?;
        if code.attribute("Value") != Some(SUCCESS) {
            let inner = one(code, PROTOCOL, "StatusCode")?.and_then(|code| code.attribute("Value"));
            let more = one(status, PROTOCOL, "StatusMessage")?.map(text).transpose()?.unwrap_or_default();
            let code = inner.or(code.attribute("Value")).unwrap_or_default();
            let code = code.rsplit(':').next().unwrap_or_default();
            return wrong(format!("the provider refused: {}", said(format!("{code} {more}").trim())));
        }
        Ok(())
    }

    fn check_assertion(
        &self,
        assertion: Node<'_, '_>,
        answered: Option<&str>,
        now: SystemTime,
    ) -> Result<Proven, SamlError> {
        if assertion.attribute("Version") != Some("2.0") {
            return wrong("its assertion is not of SAML 2.0");
        }
        let Some(id) = assertion.attribute("ID").filter(|id| !id.is_empty() && id.len() <= 255) else {
            return wrong("its assertion has no ID, or a very long one");
        };
        if text(the(assertion, SAML, "Issuer")?)? != self.issuer {
            return wrong("its assertion is another provider's (Issuer)");
        }
        let conditions = the(assertion, SAML, "Conditions")?;
        let mut until = self.check_conditions(conditions, now)?;

        let subject = the(assertion, SAML, "Subject")?;
        let name = the(subject, SAML, "NameID")?;
        let (format, called) = (name.attribute("Format").unwrap_or_default(), text(name)?);
        if format == TRANSIENT {
            return wrong(
                "its NameID is transient, so that nobody can be known again: let the provider send a persistent one",
            );
        }
        let qualifier = name.attribute("NameQualifier").filter(|qualifier| *qualifier != self.issuer);
        let longest = qualifier.map_or(0, str::len).max(format.len()).max(called.len());
        if called.is_empty() || longest > 255 || called.contains(char::is_control) {
            return wrong("its NameID is empty, or too long");
        }
        let request = self.confirmed(subject, now, &mut until)?;
        if answered.is_some_and(|answered| answered != request) {
            return wrong("response and assertion answer different requests");
        }
        let statements: Vec<_> =
            elements(assertion).filter(|child| is(*child, SAML, "AuthnStatement")).collect();
        if statements.is_empty() {
            return wrong("its assertion does not say that anyone signed in (AuthnStatement)");
        }
        let mut authenticated: Option<SystemTime> = None;
        for statement in statements {
            authenticated = authenticated.max(time(statement, "AuthnInstant")?);
            if let Some(end) = time(statement, "SessionNotOnOrAfter")?
                && end + SKEW <= now
            {
                return wrong("the session at the provider has ended");
            }
        }
        let groups = attribute(assertion, &self.config.groups_attribute)?;
        let wanted = match &self.config.name_attribute {
            Some(name) => attribute(assertion, name)?.and_then(|values| values.into_iter().next()),
            None => None,
        };
        let hint = groups
            .is_none()
            .then(|| format!("the provider sent no attribute {:?}", self.config.groups_attribute));
        // It keeps from deciding only, so that whoever says it need not prove it.
        let mail =
            [Some(called.as_str()), wanted.as_deref()].into_iter().flatten().find(|name| name.contains('@'));
        let mail = mail.map(str::to_owned);
        let identity = Identity {
            issuer: self.issuer(),
            subject: format!(
                "{} {} {called}",
                format.rsplit(':').next().unwrap_or_default(),
                qualifier.unwrap_or_default()
            ),
            called: wanted.unwrap_or(called),
            groups: groups.unwrap_or_default(),
            email: mail,
            // SAML has no word for it.
            email_verified: false,
            authenticated_ns: authenticated.and_then(|at| {
                let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
                i64::try_from(since.as_nanos()).ok()
            }),
            hint,
        };
        let until = until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + SKEW;
        Ok(Proven {
            provider: self.config.name.clone(),
            identity,
            request,
            assertion: format!("{} {id}", self.issuer),
            until_ns: i64::try_from(until.as_nanos()).unwrap_or(i64::MAX),
        })
    }

    /// Checks for whom and when the assertion counts; gives until when.
    fn check_conditions(&self, conditions: Node<'_, '_>, now: SystemTime) -> Result<SystemTime, SamlError> {
        if time(conditions, "NotBefore")?.is_some_and(|from| from > now + SKEW) {
            return wrong("it does not count yet (NotBefore): are the clocks apart?");
        }
        let Some(until) = time(conditions, "NotOnOrAfter")? else {
            return wrong("it does not say until when it counts (NotOnOrAfter)");
        };
        if until + SKEW <= now {
            return wrong("it counts no longer (NotOnOrAfter): are the clocks apart?");
        }
        let mut for_us = false;
        for condition in elements(conditions) {
            match condition.tag_name().name() {
                "AudienceRestriction" if is(condition, SAML, "AudienceRestriction") => {
                    let mut audiences = elements(condition).filter(|child| is(*child, SAML, "Audience"));
                    if !audiences.any(|audience| text(audience).is_ok_and(|name| name == self.entity_id)) {
                        return wrong("it was made for someone else (Audience)");
                    }
                    for_us = true;
                }
                "OneTimeUse" | "ProxyRestriction" => {}
                other => return wrong(format!("it has a condition that is not known: {}", said(other))),
            }
        }
        if !for_us {
            return wrong("it does not say for whom it was made (Audience)");
        }
        Ok(until)
    }

    /// Checks that whoever brings the assertion is who it is about; gives the request that it answers.
    fn confirmed(
        &self,
        subject: Node<'_, '_>,
        now: SystemTime,
        until: &mut SystemTime,
    ) -> Result<String, SamlError> {
        let mut why = "it does not say how to know who it is about (SubjectConfirmation)";
        for confirmation in elements(subject).filter(|child| is(*child, SAML, "SubjectConfirmation")) {
            if confirmation.attribute("Method") != Some(BEARER) {
                continue;
            }
            let Some(data) = one(confirmation, SAML, "SubjectConfirmationData")? else { continue };
            let end = time(data, "NotOnOrAfter")?;
            why = match (data.attribute("InResponseTo"), end) {
                _ if data.attribute("Recipient") != Some(self.consumer.as_str()) => {
                    "it was made for another place (Recipient)"
                }
                (None, _) => "nobody has asked for it (InResponseTo): begin here, not at the provider",
                (_, None) => "it does not say until when it counts (SubjectConfirmationData)",
                (_, Some(end)) if end + SKEW <= now => "it counts no longer (SubjectConfirmationData)",
                _ if time(data, "NotBefore")?.is_some_and(|from| from > now + SKEW) => {
                    "it does not count yet (SubjectConfirmationData)"
                }
                (Some(request), Some(end)) => {
                    *until = (*until).max(end);
                    return Ok(request.to_owned());
                }
            };
        }
        wrong(why)
    }
}

/// All values of an attribute; none when there is no such attribute.
fn attribute(assertion: Node<'_, '_>, name: &str) -> Result<Option<Vec<String>>, SamlError> {
    let mut values = None;
    for statement in elements(assertion).filter(|child| is(*child, SAML, "AttributeStatement")) {
        for attribute in elements(statement).filter(|child| is(*child, SAML, "Attribute")) {
            if attribute.attribute("Name") != Some(name) {
                continue;
            }
            let values = values.get_or_insert_with(Vec::new);
            for value in
                elements(attribute).filter(|child| is(*child, SAML, "AttributeValue")).take(MOST_GROUPS)
            {
                values.push(text(value)?);
            }
        }
    }
    Ok(values)
}

fn time(node: Node<'_, '_>, name: &str) -> Result<Option<SystemTime>, SamlError> {
    let Some(value) = node.attribute(name) else { return Ok(None) };
    let at: Timestamp = value.parse().map_err(|_| SamlError(format!("{name} is no time")))?;
    Ok(Some(at.into()))
}

/// Entity id, address for requests and keys of an identity provider.
fn metadata(text: &str) -> Result<(String, String, Vec<Key>), SamlError> {
    let document = parse(text)?;
    let roles: Vec<_> =
        document.descendants().filter(|node| is(*node, METADATA, "IDPSSODescriptor")).collect();
    let [role] = roles.as_slice() else {
        return wrong("it is not the metadata of exactly one identity provider (IDPSSODescriptor)");
    };
    let entity = role.parent_element().and_then(|entity| entity.attribute("entityID"));
    let Some(issuer) = entity.filter(|id| !id.is_empty()) else { return wrong("it has no entityID") };
    if matches!(role.attribute("WantAuthnRequestsSigned"), Some("true" | "1")) {
        return wrong(
            "the provider wants signed requests, which are not supported: turn that off there (WantAuthnRequestsSigned)",
        );
    }
    let place = elements(*role).find(|child| {
        is(*child, METADATA, "SingleSignOnService") && child.attribute("Binding") == Some(REDIRECT)
    });
    let Some(place) = place.and_then(|place| place.attribute("Location")) else {
        return wrong("it has no SingleSignOnService with the binding HTTP-Redirect");
    };
    if !openidconnect::url::Url::parse(place).is_ok_and(|url| is_safe(&url) && url.fragment().is_none()) {
        return wrong("the address of its SingleSignOnService is not https://");
    }
    let mut keys = Vec::new();
    for descriptor in elements(*role).filter(|child| is(*child, METADATA, "KeyDescriptor")) {
        if descriptor.attribute("use").is_some_and(|used| used != "signing") {
            continue;
        }
        for certificate in descriptor.descendants().filter(|node| is(*node, DS, "X509Certificate")) {
            keys.push(Key::from_certificate(&base64(&self::text(certificate)?)?)?);
        }
    }
    if keys.is_empty() {
        return wrong("it has no certificate to verify signatures with (KeyDescriptor)");
    }
    Ok((issuer.to_owned(), place.to_owned(), keys))
}

/// The bytes as a DEFLATE stream (RFC 1951) that holds them as they are: requests are short, and nobody needs a
/// compressor for them.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut stream = Vec::with_capacity(bytes.len() + 5);
    let mut chunks = bytes.chunks(usize::from(u16::MAX)).peekable();
    while let Some(chunk) = chunks.next() {
        let length = u16::try_from(chunk.len()).unwrap_or(u16::MAX);
        stream.push(u8::from(chunks.peek().is_none()));
        stream.extend(length.to_le_bytes());
        stream.extend((!length).to_le_bytes());
        stream.extend(chunk);
    }
    stream
}

#[cfg(test)]
mod tests;
