//! One call to the collector: hello, its answer, then the recording as it grows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use interlock_recording::SessionId;
use interlock_shipping::MAX_MESSAGE;
use interlock_shipping::v1::shipping_client::ShippingClient;
use interlock_shipping::v1::to_agent::Message as Answer;
use interlock_shipping::v1::to_collector::Message;
use interlock_shipping::v1::{EndSession, Health, Hello, PolicyOrder, Taken, ToAgent, ToCollector};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::approvals::Approvals;
use super::connect::Connection;
use super::enrolment::{Enrolment, Mark, Stamp};
use super::orders::{self, Pending};
use super::shipper::{Report, Shipper};
use super::source::{self, Source};
use super::tokens::Tokens;
use super::{Fault, asked_to_finish, blocking, enrol};

/// Sealed segments that may be on their way without having been taken.
const IN_FLIGHT: u64 = 4;
/// Messages that wait for the network.
const QUEUE: usize = 2;
/// How long the first answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// How often it is looked whether there is something new.
const LOOK: Duration = Duration::from_millis(500);
/// How often the collector is told how the agent is.
const HEALTH: Duration = Duration::from_secs(10);
/// The collector has been sent something, and neither takes it nor reads on, for so long.
const STALLED: Duration = Duration::from_secs(120);
/// Answers between two looks. An honest collector sends some.
const MOST_ANSWERS: u32 = 4096;
/// How often a renewal that has failed is tried again.
const RENEWAL: Duration = Duration::from_secs(3600);

/// Why a call ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// All is shipped, and the agent stops.
    Finished,
    /// The enrolment is another one now.
    Changed,
}

/// A call that is going on.
struct Call<'s> {
    shipper: &'s Shipper,
    enrolment: &'s Enrolment,
    stamp: Option<Stamp>,
    connection: &'s Connection,
    sender: mpsc::Sender<ToCollector>,
    source: Option<Source>,
    taken: Mark,
    /// There was nothing to send when it was last looked.
    idle: bool,
    /// When something was last sent or taken.
    progress: Instant,
    answers: u32,
    health: Option<(Instant, Report)>,
    renewal: Option<Instant>,
    order: Pending,
    approvals: Approvals,
    tokens: Tokens,
    finishing: bool,
}

/// Ships over `connection` until it ends. `progressed` tells afterwards whether the collector answered.
pub(super) async fn ship(
    shipper: &Shipper,
    enrolment: &Enrolment,
    stamp: Option<Stamp>,
    connection: &Connection,
    finishing: &mut watch::Receiver<bool>,
    progressed: &mut bool,
) -> Result<Ended, Fault> {
    let (sender, queue) = mpsc::channel(QUEUE);
    let (oldest_segment, head) = shipper.introduction().await?;
    let hello = Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host_name: enrol::host_name(),
        kernel: enrol::kernel(),
        oldest_segment,
        now_ns: now_ns(),
        head,
    };
    // The queue is empty, and has room.
    let _ = sender.try_send(ToCollector { message: Some(Message::Hello(hello)) });
    let mut client = ShippingClient::new(connection.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
    let late = |_| Fault::Stalled(ANSWER);
    let call = client.ship(ReceiverStream::new(queue));
    let answers = tokio::time::timeout(ANSWER, call).await.map_err(late)?;
    let mut answers = answers.map_err(|status| connection.fault(&status))?.into_inner();
    let first =
        tokio::time::timeout(ANSWER, first_answer(connection, &mut answers)).await.map_err(late)??;
    let mut call = Call {
        shipper,
        enrolment,
        stamp,
        connection,
        sender,
        source: None,
        taken: first,
        idle: false,
        progress: Instant::now(),
        answers: 0,
        health: None,
        renewal: None,
        order: Pending::default(),
        approvals: Approvals::new(shipper.approvals()),
        tokens: Tokens::new(shipper.tokens()),
        finishing: false,
    };
    call.begin(first).await?;
    *progressed = true;
    call.run(&mut answers, finishing).await
}

/// The first answer must say where to go on.
async fn first_answer(connection: &Connection, answers: &mut Streaming<ToAgent>) -> Result<Mark, Fault> {
    match receive(connection, answers).await? {
        Some(Answer::Taken(taken)) => Ok(mark(&taken)),
        _ => Err(Fault::Broke("its first answer does not say where to go on".to_owned())),
    }
}

async fn receive(connection: &Connection, answers: &mut Streaming<ToAgent>) -> Result<Option<Answer>, Fault> {
    match answers.message().await {
        Ok(Some(answer)) => Ok(answer.message),
        Ok(None) => Err(Fault::Broke("the collector ended the call".to_owned())),
        Err(status) => Err(connection.fault(&status)),
    }
}

fn mark(taken: &Taken) -> Mark {
    Mark { segment: taken.next_segment, event: taken.next_index }
}

fn now_ns() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0)
}

impl Call<'_> {
    async fn begin(&mut self, taken: Mark) -> Result<(), Fault> {
        let recorder = Arc::clone(self.shipper.recorder());
        let source = blocking(move || Source::start(recorder.directory(), recorder.public_key(), taken));
        self.source = Some(source.await??);
        self.shipper.begins(self.enrolment, taken).await
    }

    async fn run(
        &mut self,
        answers: &mut Streaming<ToAgent>,
        finishing: &mut watch::Receiver<bool>,
    ) -> Result<Ended, Fault> {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let sender = self.sender.clone();
        loop {
            tokio::select! {
                answer = receive(self.connection, answers) => {
                    if let Some(answer) = answer? {
                        self.answer(answer).await?;
                    }
                }
                () = self.approvals.changed() => {}
                () = self.tokens.changed() => {}
                permit = sender.reserve(), if !self.idle || self.approvals.pending || self.tokens.pending => {
                    let Ok(permit) = permit else {
                        return Err(self.ended_early(answers).await);
                    };
                    // People wait for these, and they are few.
                    let waited_for = self.approvals.next();
                    if let Some(message) = waited_for.or_else(|| self.tokens.next()) {
                        permit.send(ToCollector { message: Some(message) });
                    } else if !self.idle
                        && let Some(message) = self.next_message().await?
                    {
                        self.progress = Instant::now();
                        permit.send(ToCollector { message: Some(message) });
                    }
                }
                _ = look.tick() => {
                    if let Some(ended) = self.look().await? {
                        return Ok(ended);
                    }
                }
                () = asked_to_finish(finishing), if !self.finishing => {
                    self.finishing = true;
                    self.idle = false;
                }
            }
            if self.finishing && self.idle && !self.approvals.pending && self.is_all_taken() {
                return Ok(Ended::Finished);
            }
        }
    }

    /// The transport takes nothing more: what the collector said last tells why.
    async fn ended_early(&self, answers: &mut Streaming<ToAgent>) -> Fault {
        let last = async {
            loop {
                if let Err(fault) = receive(self.connection, answers).await {
                    return fault;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(1), last)
            .await
            .unwrap_or_else(|_| Fault::Broke("the collector takes nothing more".to_owned()))
    }

    fn next_segment(&self) -> u64 {
        self.source.as_ref().map_or(self.taken.segment, Source::next)
    }

    fn is_all_taken(&self) -> bool {
        self.taken.segment >= self.next_segment()
            && self.taken.event >= self.shipper.recorder().status().events
    }

    async fn next_message(&mut self) -> Result<Option<Message>, Fault> {
        let sealed = self.next_segment().saturating_sub(self.taken.segment) < IN_FLIGHT;
        let Some(mut source) = self.source.take() else {
            return Err(Fault::Recording("it is being read already".to_owned()));
        };
        let (source, message) = blocking(move || {
            let message = source.next_message(sealed);
            (source, message)
        })
        .await?;
        self.source = Some(source);
        let message = message?;
        self.idle = message.is_none();
        Ok(message)
    }

    async fn answer(&mut self, answer: Answer) -> Result<(), Fault> {
        self.answers += 1;
        if self.answers > MOST_ANSWERS {
            return Err(Fault::Contradiction(
                "the collector sends messages without end: is it the right one?".to_owned(),
            ));
        }
        match answer {
            Answer::Taken(taken) => self.taken(mark(&taken)).await,
            Answer::EndSession(EndSession { session, reason }) => {
                let Some(id) = SessionId::from_slice(&session) else { return Ok(()) };
                if self.shipper.shipping().sessions().end(id, &reason) {
                    tracing::info!(session = %id, "a reviewer ends a session");
                }
                Ok(())
            }
            Answer::PolicyOrder(order) => self.take_order(order).await,
            Answer::ApprovalVote(vote) => {
                self.approvals.take(vote);
                Ok(())
            }
            Answer::TokenWords(words) => match self.tokens.hear(words) {
                Some(hear) => blocking(hear).await,
                None => Ok(()),
            },
        }
    }

    async fn take_order(&mut self, order: PolicyOrder) -> Result<(), Fault> {
        self.order.take(self.shipper, self.enrolment, self.connection, order).await?;
        self.tell_health();
        Ok(())
    }

    async fn taken(&mut self, mark: Mark) -> Result<(), Fault> {
        let Mark { segment, event } = mark;
        if segment < self.taken.segment || event < self.taken.event {
            return Err(Fault::Contradiction(format!(
                "the collector had taken all segments before {} and events before {}, and now says {segment} and \
                 {event}",
                self.taken.segment, self.taken.event
            )));
        }
        if segment > self.next_segment() || event > self.events().await? {
            return Err(Fault::Contradiction(format!(
                "the collector says that it has all segments before {segment} and events before {event}, which \
                 it was not sent"
            )));
        }
        // A collector that says that nothing has changed is still at what it was sent: a large segment takes long,
        // and others may be before it.
        self.progress = Instant::now();
        if mark == self.taken {
            return Ok(());
        }
        // There may be room for another segment on the way.
        self.idle &= segment == self.taken.segment;
        let segments = segment > self.taken.segment;
        self.taken = mark;
        if !segments {
            self.shipper.shipping().taken(mark);
            return Ok(());
        }
        self.shipper.taken(self.enrolment, mark).await
    }

    /// How many events the newest `HEAD` covers: no more have been sent.
    async fn events(&self) -> Result<u64, Fault> {
        let recorder = Arc::clone(self.shipper.recorder());
        let head = blocking(move || source::head(recorder.directory(), recorder.public_key())).await??;
        Ok(head.checkpoint.events)
    }

    /// What is done every now and then.
    async fn look(&mut self) -> Result<Option<Ended>, Fault> {
        self.idle = false;
        self.answers = 0;
        if self.shipper.store().stamp() != self.stamp {
            return Ok(Some(Ended::Changed));
        }
        let waiting = self.next_segment() > self.taken.segment || self.sender.capacity() == 0;
        if waiting && self.progress.elapsed() > STALLED {
            return Err(Fault::Stalled(STALLED));
        }
        if let Some(order) = self.order.due() {
            self.take_order(order).await?;
        }
        self.tell_health();
        self.shipper.make_room(self.enrolment, self.taken).await?;
        self.renew().await
    }

    /// Tells the collector how the agent is, every now and then and when that has changed.
    fn tell_health(&mut self) {
        let report = self.shipper.report();
        let recorder = self.shipper.recorder().status();
        self.shipper.shipping().sample(recorder.events);
        let due = self.health.as_ref().is_none_or(|(told, last)| {
            told.elapsed() >= HEALTH
                || last.policy_hash != report.policy_hash
                || last.full != report.full
                || last.policy != report.policy
        });
        if !due {
            return;
        }
        let message = Message::Health(Health {
            now_ns: now_ns(),
            policy_hash: report.policy_hash.clone(),
            spool_bytes: recorder.used_bytes,
            spool_limit: recorder.max_bytes,
            flows: report.flows,
            full: report.full,
            policy: Some(orders::state(&report.policy)),
        });
        // With the queue full it is told at the next look.
        if self.sender.try_send(ToCollector { message: Some(message) }).is_ok() {
            self.health = Some((Instant::now(), report));
        }
    }

    /// Has the certificate renewed when two thirds of its life are over.
    async fn renew(&mut self) -> Result<Option<Ended>, Fault> {
        let tried = self.renewal.is_some_and(|at| at.elapsed() < RENEWAL);
        if self.finishing || tried || !self.enrolment.is_due(enrol::now()) {
            return Ok(None);
        }
        self.renewal = Some(Instant::now());
        let renewed = match enrol::renew(self.connection, self.enrolment).await {
            Ok(renewed) => renewed,
            Err(fault) => {
                // The old one still counts for a third of its life.
                tracing::warn!("this host's certificate could not be renewed: {fault}");
                return Ok(None);
            }
        };
        self.shipper.renewed(renewed, self.stamp).await?;
        Ok(Some(Ended::Changed))
    }
}
