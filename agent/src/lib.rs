//! The Interlock agent: takes designated processes' outbound connections, decides on every command
//! they carry, masks what comes back and records it all.
//!
//! A command goes down these modules once: [`intercept`] hands over a flow, [`protocol`] decodes it
//! into an [`operation::Operation`], [`policy`] decides, [`record`] makes it durable, and
//! [`protocol`] forwards or refuses it; [`mask`] rewrites what comes back.

pub mod approval;
mod civil;
pub mod cli;
pub mod config;
pub mod control;
pub mod credential;
pub mod daemon;
pub mod identity;
pub mod intercept;
pub mod mask;
pub mod mcp;
pub mod operation;
pub mod policy;
pub mod protocol;
pub mod record;
pub mod ship;
pub mod sql;
pub mod tls;
pub mod trust;
