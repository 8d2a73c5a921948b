//! Held commands and the people who decide on them.
//!
//! A protocol brings what is held to the [`Desk`] and gets a [`Ticket`]; the flow waits on it. Whoever
//! decides comes to the desk, too: [`Desk::approve`], [`Desk::deny`] and [`Desk::break_glass`] are the one way in,
//! for the control socket; [`Desk::remote`] is, for what the collector brings, and checks what it says of whom.
//! What a request may become is the state machine in [`case`]; the desk adds the clock, the bounds, and
//! what was approved for longer than one command.
//!
//! Nothing that is open or approved is kept over the agent's end: flows end with it, and what they held never went
//! on. How requests ended is, for approvers to see.

pub mod ahead;
pub mod case;
pub mod cli;
mod desk;
mod listed;
mod memory;
mod past;
mod peer;
mod person;
mod rate;
mod remote;
mod started;

pub use case::{NotCounted, Outcome, Vote, Withdrawal};
pub use desk::{
    Bounds, CancelKey, Covered, Desk, DeskError, Event, Grant, Id, REASON, Request, Shape, Ticket,
};
pub use listed::{Beforehand, Does, Estimate, Listed, Shown};
pub use peer::approver;
pub use person::{Account, Approver, Person, Requester, Who};
#[cfg(test)]
pub(crate) use remote::tests as remote_tests;
pub use remote::{Answered, Name, News, Opened, Remote, RemoteVote, Standing, Told};
pub use started::seated;
