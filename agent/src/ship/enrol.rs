//! Enrolling this host with a collector, and renewing its certificate.

use std::time::Duration;

use interlock_recording::{Domain, HostKey};
use interlock_shipping::v1::enrollment_client::EnrollmentClient;
use interlock_shipping::v1::shipping_client::ShippingClient;
use interlock_shipping::v1::{Certificate, EnrollRequest, RenewRequest};
use interlock_shipping::{MAX_MESSAGE, Token, enrolment_message};
use sha2::{Digest as _, Sha256};
use tonic::Code;
use x509_parser::prelude::{FromDer as _, X509Certificate, X509CertificationRequest};
use zeroize::Zeroizing;

use super::connect::Connection;
use super::enrolment::Enrolment;
use super::{Address, Fault, connect, printable};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// A collector's name, and its ledger's key, in bytes.
const LONGEST: (usize, usize) = (253, 1024);

/// Has the collector at `address` make this host one of its agents.
pub(super) async fn enrol(address: Address, token: &Token, host_key: &HostKey) -> Result<Enrolment, Fault> {
    let connection = connect::connect(&address, connect::first_contact(token.authority)?).await?;
    let host_name = host_name();
    let (key, certificate_request) = connect::make_request(&host_name)?;
    let message = enrolment_message(&token.secret, &certificate_request);
    let request = EnrollRequest {
        secret: token.secret.clone(),
        certificate_request: certificate_request.clone(),
        host_key: host_key.public().as_bytes().to_vec(),
        signature: host_key.sign(Domain::Enrolment, &message).to_vec(),
        host_name,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut client = EnrollmentClient::new(connection.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
    let reply = within(&connection, client.enroll(request)).await?.into_inner();
    let Certificate { certificate, authority } = reply.certificate.unwrap_or_default();
    if Sha256::digest(&authority)[..] != token.authority {
        return Err(bad_answer("the authority in its answer is not the one that the token names"));
    }
    check(&certificate, &certificate_request)?;
    if reply.collector.len() > LONGEST.0 || reply.ledger_key.len().max(reply.policy_key.len()) > LONGEST.1 {
        return Err(bad_answer("the names in its answer are too long"));
    }
    let (collector, ledger_key) = (printable(&reply.collector), printable(&reply.ledger_key));
    let policy_key = Some(printable(&reply.policy_key)).filter(|key| !key.is_empty());
    Ok(Enrolment { address, collector, ledger_key, policy_key, authority, certificate, key })
}

/// Has the collector issue a new certificate for a new key.
pub(super) async fn renew(connection: &Connection, enrolment: &Enrolment) -> Result<Enrolment, Fault> {
    let (key, certificate_request) = connect::make_request(&host_name())?;
    let request = RenewRequest { certificate_request: certificate_request.clone() };
    let mut client = ShippingClient::new(connection.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
    let Certificate { certificate, authority } =
        within(connection, client.renew(request)).await?.into_inner();
    // An authority is exchanged by enrolling anew only: it is what the collector is known by.
    if authority != enrolment.authority {
        return Err(bad_answer("it renews the certificate by another authority. Enrol this host anew"));
    }
    check(&certificate, &certificate_request)?;
    Ok(Enrolment { certificate, key, ..enrolment.clone() })
}

async fn within<T>(
    connection: &Connection,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<tonic::Response<T>, Fault> {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(Err(status)) if status.code() == Code::InvalidArgument => {
            Err(Fault::Refused(printable(status.message())))
        }
        Ok(answer) => answer.map_err(|status| connection.fault(&status)),
        Err(_) => Err(Fault::Stalled(ANSWER)),
    }
}

fn bad_answer(what: &str) -> Fault {
    Fault::Contradiction(format!("the collector's answer cannot be used: {what}"))
}

/// Whether the certificate is for the key that was asked for, and counts now.
fn check(certificate: &[u8], request: &[u8]) -> Result<(), Fault> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| bad_answer("it holds no certificate"))?;
    let (_, request) = X509CertificationRequest::from_der(request)
        .map_err(|_| Fault::Enrolment("cannot read the request that was just made".to_owned()))?;
    let ours = request.certification_request_info.subject_pki.raw;
    if parsed.tbs_certificate.subject_pki.raw != ours {
        return Err(bad_answer("the certificate in it is for another key"));
    }
    let now = now();
    let validity = parsed.validity();
    if now < validity.not_before.timestamp() || now > validity.not_after.timestamp() {
        return Err(bad_answer(
            "the certificate in it is not valid by this host's clock. Set the clock (`timedatectl`), then try again",
        ));
    }
    Ok(())
}

/// Seconds since the Unix epoch.
pub(super) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// This host's name.
pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim_end().chars().take(255).collect()
}

/// This host's kernel.
pub(super) fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim_end().chars().take(255).collect()
}

/// Overwrites a token's secret when it is not needed any more.
pub(super) fn forget(token: Token) {
    drop(Zeroizing::new(token.secret));
}
