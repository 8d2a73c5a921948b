//! The shipping service: one call for each agent, in which its recording comes in order.

use std::sync::Arc;
use std::time::Duration;

use interlock_shipping::MAX_PART;
use interlock_shipping::v1::shipping_server::Shipping;
use interlock_shipping::v1::to_agent::Message as ToAgentMessage;
use interlock_shipping::v1::to_collector::Message;
use interlock_shipping::v1::{
    Certificate, FetchPoliciesRequest, Health, PolicyFiles, RenewRequest, SealedPart, Taken, ToAgent,
    ToCollector,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::approvals::{LEAST, Room, Votes};
use super::connected::Errand;
use super::enrol::internal;
use super::orders::Told;
use super::take::TakeError;
use super::{Intake, Peer, PeerInfo};
use crate::archive::Incoming;
use crate::policies;
use crate::store::{Agent, HealthReport, Standing, now_ns};

/// A sealed segment's file is at most this large: more than any that an agent makes.
const MAX_FILE: u64 = 512 << 20;
/// How often it is looked whether the agent may still ship.
const ADMISSION: Duration = Duration::from_secs(2);
/// How long an agent may be silent. It says how it is every ten seconds.
const SILENCE: Duration = Duration::from_secs(90);

/// How long an agent may leave unread what it is told.
const REPLY: Duration = Duration::from_secs(10);
/// How often an agent hears of a collector that is still at what it was sent last. It takes one that is silent for
/// dead.
const AT_WORK: Duration = Duration::from_secs(15);
/// How the agent is is noted this often at most.
const HEALTH: Duration = Duration::from_millis(500);

/// The service.
pub(super) struct Shipper(pub(super) Arc<Intake>);

type Reply = Result<ToAgent, Status>;

/// A file that is coming in, and which segment's it is.
struct Arriving {
    segment: u64,
    file: Incoming,
}

impl Shipper {
    async fn admit<T>(&self, request: &Request<T>) -> Result<(Peer, String), Status> {
        let info = request.extensions().get::<PeerInfo>().cloned();
        let address = info.as_ref().map(|info| info.address.to_string()).unwrap_or_default();
        let peer = info.and_then(|info| info.peer).ok_or_else(|| {
            Status::unauthenticated("a client certificate of this collector is needed: enrol the agent")
        })?;
        if self.0.store.admit(&peer.host, &peer.serial).await.map_err(internal)? {
            Ok((peer, address))
        } else {
            tracing::warn!(%address, host = peer.host, "refused: the host or its certificate was revoked");
            Err(Status::permission_denied(
                "this host, or this certificate of it, was revoked, or its recording has ended after a dispute; an \
                 administrator of the collector can have it enrolled anew",
            ))
        }
    }
}

async fn until(time: Option<tokio::time::Instant>) {
    if let Some(time) = time {
        tokio::time::sleep_until(time).await;
    }
}

fn status(error: TakeError) -> Status {
    match error {
        TakeError::Order(message) => Status::aborted(message),
        TakeError::Revoked => Status::permission_denied("this host was revoked"),
        TakeError::Incident(incident) => Status::failed_precondition(format!(
            "{} The collector takes nothing more of this recording until it has been looked into",
            incident.detail
        )),
        error => internal(error),
    }
}

#[tonic::async_trait]
impl Shipping for Shipper {
    type ShipStream = ReceiverStream<Reply>;

    async fn ship(
        &self,
        request: Request<Streaming<ToCollector>>,
    ) -> Result<Response<Self::ShipStream>, Status> {
        let (peer, address) = self.admit(&request).await?;
        let messages = request.into_inner();
        let (replies, receiver) = mpsc::channel(16);
        let intake = Arc::clone(&self.0);
        tokio::spawn(async move {
            tracing::info!(%address, host = peer.host, "an agent is there");
            let call = Call {
                intake: &intake,
                host: &peer.host,
                replies: &replies,
                arriving: None,
                unsealed: 0,
                sealed: 0,
                waits_until: None,
                slowed: false,
                told: Told::default(),
                votes: Votes::default(),
                room: Room::default(),
                open_told: false,
                healthy_at: tokio::time::Instant::now() - HEALTH,
            };
            let ended = call.run(messages).await;
            if let Err(status) = ended {
                tracing::info!(%address, host = peer.host, "its call has ended: {}", status.message());
                let _ = replies.send(Err(status)).await;
            } else {
                tracing::info!(%address, host = peer.host, "the agent has left");
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Certificate>, Status> {
        let (peer, address) = self.admit(&request).await?;
        let issued = self
            .0
            .authority
            .issue(&peer.host, &request.into_inner().certificate_request)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut write = self.0.store.write().await.map_err(internal)?;
        write.renewed(&peer.host, &peer.serial, &issued.serial, issued.expires_ns).await.map_err(internal)?;
        write
            .audit(&format!("agent {}", peer.host), "agent.renew", &peer.host, &issued.serial, &address)
            .await
            .map_err(internal)?;
        write.commit().await.map_err(internal)?;
        Ok(Response::new(Certificate {
            certificate: issued.certificate,
            authority: self.0.authority.certificate().to_vec(),
        }))
    }

    async fn fetch_policies(
        &self,
        request: Request<FetchPoliciesRequest>,
    ) -> Result<Response<PolicyFiles>, Status> {
        let (peer, _) = self.admit(&request).await?;
        let content = request.into_inner().content_sha256;
        let files = policies::files_for(&self.0, &peer.host, &content).await.map_err(internal)?;
        let refused = || Status::not_found("this host's newest order names no policies of this content");
        Ok(Response::new(files.ok_or_else(refused)?))
    }
}

/// One call of an agent.
struct Call<'c> {
    intake: &'c Intake,
    host: &'c str,
    replies: &'c mpsc::Sender<Reply>,
    arriving: Option<Arriving>,
    /// Bytes of live records that have not come sealed.
    unsealed: u64,
    /// Bytes of its segments that are kept.
    sealed: u64,
    /// It ships faster than it may: nothing is read of it before.
    waits_until: Option<tokio::time::Instant>,
    /// That was found in this call.
    slowed: bool,
    /// What it was told about policies.
    told: Told,
    /// What it was told of decisions on its requests for approval.
    votes: Votes,
    /// How much is kept of them.
    room: Room,
    /// It has told which of its requests are open: it does so once in a call.
    open_told: bool,
    /// When it last said how it is.
    healthy_at: tokio::time::Instant,
}

impl Call<'_> {
    async fn run(mut self, mut messages: Streaming<ToCollector>) -> Result<(), Status> {
        let silent = || Status::deadline_exceeded("nothing was heard of the agent");
        let first = tokio::time::timeout(SILENCE, messages.message()).await.map_err(|_| silent())??;
        let Some(ToCollector { message: Some(Message::Hello(hello)) }) = first else {
            return Err(Status::invalid_argument("a call begins with hello"));
        };
        let (sender, mut commands) = mpsc::channel(64);
        // One call for each agent: the one before ends when its commands' sender goes.
        let _presence = self.intake.connected.enter(self.host, sender);
        // It may still be at what came last.
        let turn = self.intake.connected.turn(self.host);
        let _turn = tokio::time::timeout(SILENCE, turn.lock())
            .await
            .map_err(|_| Status::aborted("an earlier call of this agent has not come to its end"))?;
        let agent = self.intake.store.agent(self.host).await.map_err(internal)?;
        let mut agent = agent.ok_or_else(|| Status::permission_denied("this host is not enrolled"))?;
        if let Some(reason) = agent.dispute {
            return Err(Status::failed_precondition(format!(
                "{reason} The collector takes nothing more of this recording until it has been looked into"
            )));
        }
        if hello.oldest_segment > agent.sealed.segment {
            let detail = format!(
                "segment {} is due, and the oldest that this host has is {}: segments were removed before they \
                 had been taken",
                agent.sealed.segment, hello.oldest_segment
            );
            self.found("missing", &detail).await?;
            return Err(Status::failed_precondition(detail));
        }
        self.intake.check_head(&agent, &hello.head).await.map_err(status)?;
        self.count().await?;
        let version: String = hello.version.chars().take(64).collect();
        let kernel: String = hello.kernel.chars().take(128).collect();
        self.intake.store.take_hello(self.host, version, kernel).await.map_err(internal)?;
        self.taken(&agent).await?;
        self.order().await?;
        self.tell_votes().await?;

        let mut admission = tokio::time::interval(ADMISSION);
        let mut heard = tokio::time::Instant::now();
        loop {
            tokio::select! {
                biased;
                command = commands.recv() => {
                    let Some(command) = command else {
                        return Err(Status::aborted("the agent has begun another call, or was revoked"));
                    };
                    match command {
                        Errand::End(end) => self.reply(ToAgentMessage::EndSession(end)).await?,
                        Errand::Votes => self.tell_votes().await?,
                    }
                }
                _ = admission.tick() => {
                    if !self.intake.admission.is_active(&self.intake.store, self.host).await.map_err(internal)? {
                        return Err(Status::permission_denied("this host was revoked"));
                    }
                    self.order().await?;
                    if heard.elapsed() > SILENCE {
                        return Err(silent());
                    }
                }
                () = until(self.waits_until), if self.waits_until.is_some() => {
                    self.waits_until = None;
                    heard = tokio::time::Instant::now();
                }
                message = messages.message(), if self.waits_until.is_none() => {
                    heard = tokio::time::Instant::now();
                    match message? {
                        Some(ToCollector { message: Some(message) }) => self.message(&mut agent, message).await?,
                        // A message of a newer agent.
                        Some(ToCollector { message: None }) => {}
                        None => return Ok(()),
                    }
                }
                () = self.replies.closed() => return Ok(()),
            }
        }
    }

    /// Counts what is kept of this host.
    async fn count(&mut self) -> Result<(), Status> {
        (self.unsealed, self.sealed) = self.intake.store.kept_bytes(self.host).await.map_err(internal)?;
        self.room.look(self.intake, self.host).await.map_err(internal)
    }

    /// Bytes that are kept of its recording.
    fn recorded(&self) -> u64 {
        let arriving = self.arriving.as_ref().map_or(0, |arriving| arriving.file.bytes());
        self.sealed.saturating_add(self.unsealed).saturating_add(arriving)
    }

    /// Whether `bytes` more of this host may be taken, and when more may be read.
    async fn bound(&mut self, bytes: usize) -> Result<(), Status> {
        let kept = self.recorded().saturating_add(self.room.bytes());
        if let Some(over) = self.intake.quota.is_over(kept, bytes as u64) {
            self.found("quota", "more of its recording is to be kept than may be (agents.keep_gib_per_host)")
                .await?;
            return Err(Status::resource_exhausted(over));
        }
        self.pace(bytes).await
    }

    /// Counts `bytes` that came, and has what comes next wait if they came too fast.
    async fn pace(&mut self, bytes: usize) -> Result<(), Status> {
        let now = tokio::time::Instant::now();
        if let Some(wait) = self.intake.quota.wait(self.host, bytes, now) {
            if !std::mem::replace(&mut self.slowed, true) {
                self.found("quota", &self.intake.quota.too_fast()).await?;
            }
            self.waits_until = Some(now + wait);
        }
        Ok(())
    }

    /// Writes down something that is wrong, once.
    async fn found(&self, kind: &str, detail: &str) -> Result<(), Status> {
        tracing::error!(host = self.host, kind, "{detail}");
        let mut write = self.intake.store.write().await.map_err(internal)?;
        if !write.is_found(self.host, kind, detail).await.map_err(internal)? {
            write.add_finding(self.host, kind, detail, None).await.map_err(internal)?;
        }
        write.commit().await.map_err(internal)
    }

    async fn message(&mut self, agent: &mut Agent, message: Message) -> Result<(), Status> {
        match message {
            Message::Hello(_) => Err(Status::invalid_argument("hello comes once")),
            Message::Sealed(part) => {
                self.bound(part.data.len()).await?;
                self.part(agent, part).await
            }
            Message::Live(live) => {
                self.bound(live.records.len()).await?;
                self.unsealed += live.records.len() as u64;
                if self.unsealed > MAX_FILE {
                    return Err(Status::resource_exhausted(
                        "more live records than a segment can hold came, and it was not sealed",
                    ));
                }
                self.intake.take_live(agent, live).await.map_err(status)?;
                self.taken(agent).await
            }
            Message::Health(health) => {
                // Twice a second is more than anybody looks at.
                if self.healthy_at.elapsed() < HEALTH {
                    return Ok(());
                }
                self.healthy_at = tokio::time::Instant::now();
                if let Some(state) = &health.policy {
                    self.told.hear(self.intake, self.host, state).await.map_err(internal)?;
                }
                self.health(&health).await
            }
            Message::ApprovalRequest(told) => {
                self.pace(told.encoded_len().max(LEAST)).await?;
                let recorded = self.recorded();
                let taken = self.intake.take_approval(&mut self.room, self.host, &told, recorded).await;
                self.odd(taken.map_err(internal)?).await
            }
            Message::ApprovalStanding(told) => {
                self.pace(told.encoded_len().max(LEAST)).await?;
                let taken = self.intake.take_standing(self.host, &told).await.map_err(internal)?;
                self.odd(taken).await
            }
            Message::ApprovalsOpen(all) => {
                self.pace(all.encoded_len().max(LEAST)).await?;
                if std::mem::replace(&mut self.open_told, true) {
                    let twice = "which requests for approval are open, twice in one call";
                    return self.odd(Err(twice.to_owned())).await;
                }
                let taken = self.intake.take_open(self.host, &all).await.map_err(internal)?;
                self.odd(taken).await
            }
            Message::ApprovalAnswer(answer) => {
                self.pace(answer.encoded_len().max(LEAST)).await?;
                self.votes.answered(self.intake, self.host, &answer).await.map_err(internal)
            }
            Message::TokensBound(told) => {
                self.bound(told.encoded_len()).await?;
                match self.intake.take_tokens(self.host, &agent.name, &told).await.map_err(internal)? {
                    Ok(words) => self.reply(ToAgentMessage::TokenWords(words)).await,
                    Err(why) => self.found("tokens", why).await,
                }
            }
        }
    }

    /// What no agent tells is found, and passed over: recordings are taken in all the same.
    async fn odd(&self, taken: Result<(), String>) -> Result<(), Status> {
        match taken {
            Ok(()) => Ok(()),
            Err(why) => self.found("approvals", &why).await,
        }
    }

    /// Tells it what was decided here on its requests for approval.
    async fn tell_votes(&mut self) -> Result<(), Status> {
        for vote in self.votes.next(self.intake, self.host).await.map_err(internal)? {
            self.reply(ToAgentMessage::ApprovalVote(vote)).await?;
        }
        Ok(())
    }

    async fn part(&mut self, agent: &mut Agent, part: SealedPart) -> Result<(), Status> {
        if part.data.len() > MAX_PART {
            return Err(Status::invalid_argument("a part of a segment is too large"));
        }
        let mut arriving = match self.arriving.take() {
            Some(arriving) if arriving.segment == part.segment => arriving,
            Some(arriving) => {
                return Err(Status::aborted(format!(
                    "segment {} was not at its end when segment {} came",
                    arriving.segment, part.segment
                )));
            }
            None => {
                let due = agent.sealed.segment;
                if part.segment != due {
                    return Err(Status::aborted(format!("segment {due} was due, {} came", part.segment)));
                }
                Arriving { segment: part.segment, file: self.intake.archive.begin().map_err(internal)? }
            }
        };
        if part.offset != arriving.file.bytes() {
            return Err(Status::aborted("the parts of a segment came out of order"));
        }
        if arriving.file.bytes() + part.data.len() as u64 > MAX_FILE {
            return Err(Status::invalid_argument("a segment's file is too large"));
        }
        // A part is small, and the page cache takes it.
        arriving.file.write(&part.data).map_err(internal)?;
        if !part.last {
            self.arriving = Some(arriving);
            return Ok(());
        }
        self.take_segment(agent, arriving).await?;
        self.count().await?;
        self.taken(agent).await
    }

    /// Takes a segment. That may take long: the agent hears meanwhile that nothing has changed.
    async fn take_segment(&self, agent: &mut Agent, arriving: Arriving) -> Result<(), Status> {
        let before = agent.standing();
        let taking = self.intake.take_segment(agent, arriving.segment, arriving.file);
        tokio::pin!(taking);
        loop {
            tokio::select! {
                taken = &mut taking => return taken.map_err(status),
                () = tokio::time::sleep(AT_WORK) => self.standing(&before).await?,
            }
        }
    }

    async fn health(&self, health: &Health) -> Result<(), Status> {
        let int = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let report = HealthReport {
            policy_hash: health.policy_hash.chars().take(64).collect(),
            clock_ahead_ns: int(health.now_ns).saturating_sub(now_ns()),
            spool_bytes: int(health.spool_bytes),
            spool_limit: int(health.spool_limit),
            flows: int(health.flows),
            spool_full: health.full,
        };
        self.intake.store.take_health(self.host, report).await.map_err(internal)
    }

    /// Tells it what policies it is to go by, when that has changed.
    async fn order(&mut self) -> Result<(), Status> {
        match self.told.next(self.intake, self.host).await {
            Ok(Some(order)) => self.reply(ToAgentMessage::PolicyOrder(order)).await,
            Ok(None) => Ok(()),
            // Recordings are taken in all the same.
            Err(error) => {
                tracing::error!(host = self.host, "the host cannot be ordered its policies: {error}");
                Ok(())
            }
        }
    }

    /// Says what is kept.
    async fn taken(&self, agent: &Agent) -> Result<(), Status> {
        self.standing(&agent.standing()).await
    }

    async fn standing(&self, standing: &Standing) -> Result<(), Status> {
        self.reply(ToAgentMessage::Taken(Taken {
            next_segment: standing.sealed.segment,
            next_index: standing.live.index,
            now_ns: now_ns().unsigned_abs(),
        }))
        .await
    }

    async fn reply(&self, message: ToAgentMessage) -> Result<(), Status> {
        let reply = ToAgent { message: Some(message) };
        // Nobody reads any more: the call ends by itself. Somebody who does not read for long holds up the call
        // that comes in this one's place.
        match tokio::time::timeout(REPLY, self.replies.send(Ok(reply))).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Status::deadline_exceeded("the agent does not read what it is told")),
        }
    }
}
