//! Requests for approval and what is decided on them, over the call that ships.

use interlock_shipping::v1::to_collector::Message;
use interlock_shipping::v1::{ApprovalAccount, ApprovalVote};

use super::*;
use crate::approval::remote_tests::{desk, request};
use crate::approval::{Event, Outcome, Remote};
use crate::policy::Terms;

fn told(stage: &Stage) -> Vec<Message> {
    stage.fake.has().approvals.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vote_comes_by_the_call_and_what_became_of_it_goes_back() {
    let mut stage = Stage::new().await;
    stage.enrol().await;
    let desk = desk(Remote::Decide);
    stage.desk = Some(Arc::clone(&desk));
    let mut ticket = desk.ask(request(Terms::sample())).unwrap();
    desk.recorded(ticket.id());
    let vote = ApprovalVote {
        vote: "v1".into(),
        request: ticket.id().to_string(),
        digest: vec![7; 32],
        approve: true,
        scope: "once".into(),
        by: Some(ApprovalAccount { name: "bob".into(), groups: vec!["dba".into()], ..Default::default() }),
        ..ApprovalVote::default()
    };
    // Told twice, as after a connection that broke: it counts once, and the answer is the same.
    stage.fake.has().votes = vec![vote.clone(), vote];
    stage.start();
    let answers = |stage: &Stage| {
        let of =
            |told| matches!(told, Message::ApprovalAnswer(answer) if answer.counted && answer.missing == 0);
        told(stage).into_iter().filter(|told| of(told.clone())).count()
    };
    until("both answers", || answers(&stage) == 2).await;
    let over = std::iter::from_fn(|| ticket.take()).filter(|event| matches!(event, Event::Over(_))).count();
    assert_eq!(over, 1);
    until("how it ended", || {
        told(&stage)
            .iter()
            .any(|told| matches!(told, Message::ApprovalStanding(now) if now.state == "approved"))
    })
    .await;
    assert!(
        matches!(told(&stage).first(), Some(Message::ApprovalRequest(first)) if first.text == "delete from t")
    );

    // Another call begins with all that is open.
    let second = desk.ask(request(Terms::sample())).unwrap();
    desk.recorded(second.id());
    until("the second", || {
        told(&stage).iter().filter(|told| matches!(told, Message::ApprovalRequest(_))).count() == 2
    })
    .await;
    stage.kill().await;
    stage.fake.has().approvals.clear();
    stage.start();
    until("all that is open", || {
        told(&stage).iter().any(|told| {
            matches!(told, Message::ApprovalsOpen(all)
            if all.open.len() == 1 && all.open[0].request == second.id().to_string())
        })
    })
    .await;
    drop(second);
    until("that it was withdrawn", || {
        told(&stage)
            .iter()
            .any(|told| matches!(told, Message::ApprovalStanding(now) if now.state == "withdrawn"))
    })
    .await;
    assert!(!matches!(ticket.take(), Some(Event::Over(Outcome::Denied { .. }))));
    stage.finish().await;
}
