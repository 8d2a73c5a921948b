//! What a collector takes in, beside writing the same events as JSON Lines.

use anyhow::Result;

use super::Arguments;
use crate::interrupt;
use crate::load::simulate;
use crate::shell::say;

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let seconds = (arguments.seconds.max(1) * 6).to_string();
    let loads: [(&str, &[&str]); 3] = [
        (
            "1,000 agents that record ten events a second each",
            &["--agents", "1000", "--rate", "10", "--baseline"],
        ),
        ("100 agents that record as fast as the collector takes it", &["--agents", "100", "--baseline"]),
        (
            "50 agents that catch up: sealed segments alone",
            &["--agents", "50", "--sealed-only", "--baseline"],
        ),
    ];
    for (what, load) in loads {
        interrupt::check()?;
        say(what);
        simulate(&[load, &["--seconds", &seconds]].concat())?;
    }
    Ok(())
}
