//! Enrolment: a token makes a host's agent one of ours.

use std::sync::Arc;

use interlock_recording::ledger::proto::entry::Body;
use interlock_recording::ledger::proto::{HostEnrolled, HostLabelled};
use interlock_recording::{Domain, PublicKey, hex};
use interlock_shipping::enrolment_message;
use interlock_shipping::v1::enrollment_server::Enrollment;
use interlock_shipping::v1::{Certificate, EnrollReply, EnrollRequest};
use tonic::{Request, Response, Status};

use super::{Intake, PeerInfo};
use crate::policies::written;
use crate::store::{Enrolment as Enrolled, Labels, TokenError};

/// The service.
pub(super) struct Enrolment(pub(super) Arc<Intake>);

/// What goes wrong here is for the collector's own log; the caller learns that it did.
pub(super) fn internal(error: impl std::fmt::Display) -> Status {
    tracing::error!("{error}");
    Status::internal("the collector failed; its log says why")
}

/// What a host calls itself: short, and nothing that a terminal would act on.
pub(super) fn host_name(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(253).collect()
}

#[tonic::async_trait]
impl Enrollment for Enrolment {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollReply>, Status> {
        let address =
            request.extensions().get::<PeerInfo>().map(|info| info.address.to_string()).unwrap_or_default();
        let request = request.into_inner();
        let key = PublicKey::from_bytes(&request.host_key)
            .ok_or_else(|| Status::invalid_argument("host_key is no ed25519 public key"))?;
        let message = enrolment_message(&request.secret, &request.certificate_request);
        let signed = request
            .signature
            .as_slice()
            .try_into()
            .is_ok_and(|signature| key.verifies(Domain::Enrolment, &message, signature));
        if !signed {
            return Err(Status::invalid_argument("the signature is not the host key's over this request"));
        }
        let host = hex(&key.fingerprint());
        let refused = || {
            tracing::warn!(%address, host, "an enrolment was refused: the token does not count");
            Status::permission_denied(TokenError::Refused.to_string())
        };
        if !self.0.store.knows_enrolment_token(&request.secret).await.map_err(internal)? {
            return Err(refused());
        }
        let version: String = request.version.chars().take(64).collect();
        let issued = self
            .0
            .authority
            .issue(&host, &request.certificate_request)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let name = host_name(&request.host_name);

        let mut write = self.0.store.write().await.map_err(internal)?;
        let token = match write.use_enrolment_token(&request.secret, &host).await {
            Ok(token) => token,
            Err(TokenError::Refused) => {
                drop(write);
                return Err(refused());
            }
            Err(TokenError::Store(error)) => return Err(internal(error)),
        };
        // Nothing is ever taken under this key again, so enrolling it would only look like a way on.
        if write.agent(&host).await.map_err(internal)?.is_some_and(|agent| agent.closed) {
            tracing::warn!(%address, host, "an enrolment was refused: the recording under this key has ended");
            return Err(Status::failed_precondition(
                "the recording under this host's key has ended: it contradicted itself, and the dispute was settled. \
                 Stop the agent, move its state directory away, start it again (it gets a new key and a new recording), \
                 and enrol it then",
            ));
        }
        let new = write
            .enrol(&Enrolled {
                key: &key,
                name: &name,
                version: &version,
                token_sha256: &token,
                serial: &issued.serial,
                expires_ns: issued.expires_ns,
            })
            .await
            .map_err(internal)?;
        // A host that is known keeps its labels, as it keeps its name: it is not to choose what it goes by by
        // choosing its token.
        let labels = if new { write.token_labels(&token).await.map_err(internal)? } else { Labels::new() };
        if !labels.is_empty() {
            write.set_labels(&host, &labels).await.map_err(internal)?;
        }
        let who = format!("token {}", token.get(..12).unwrap_or_default());
        write
            .append(vec![Body::HostEnrolled(HostEnrolled {
                host: key.fingerprint().to_vec(),
                public_key: key.as_bytes().to_vec(),
                name: name.clone(),
                who: who.clone(),
            })])
            .await
            .map_err(internal)?;
        let action = if new { "agent.enrol" } else { "agent.enrol_again" };
        let labelled = written(&labels);
        if !labels.is_empty() {
            let entry = HostLabelled {
                host: key.fingerprint().to_vec(),
                labels: labelled.clone(),
                reason: "enrolled".to_owned(),
                who: who.clone(),
            };
            write.append(vec![Body::HostLabelled(entry)]).await.map_err(internal)?;
        }
        let detail = if labelled.is_empty() { name.clone() } else { format!("{name}; labels {labelled}") };
        write.audit(&who, action, &host, &detail, &address).await.map_err(internal)?;
        write.commit().await.map_err(internal)?;
        tracing::info!(%address, host, name, "enrolled");
        Ok(Response::new(EnrollReply {
            certificate: Some(Certificate {
                certificate: issued.certificate,
                authority: self.0.authority.certificate().to_vec(),
            }),
            collector: self.0.signer.public().name().to_owned(),
            ledger_key: self.0.signer.public().to_string(),
            policy_key: self.0.policy_signer.public().to_string(),
        }))
    }
}
