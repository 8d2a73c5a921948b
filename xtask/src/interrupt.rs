//! Ctrl-C and SIGTERM as something to look at between steps, so that what was started is ended in
//! order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From here on SIGINT, SIGTERM and SIGHUP do not end this process: [`check`] tells of them. Children
/// are not affected.
pub(crate) fn catch() {
    extern "C" fn note(_signal: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        #[expect(unsafe_code, reason = "the handler does nothing but store to an atomic")]
        // SAFETY: `note` is async-signal-safe and lives for ever. exec gives children the default action.
        unsafe {
            libc::signal(signal, note as *const () as libc::sighandler_t);
        }
    }
}

/// A signal has come.
pub(crate) fn seen() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Fails when a signal has come.
pub(crate) fn check() -> Result<()> {
    if seen() {
        bail!("interrupted");
    }
    Ok(())
}

/// Waits for a signal.
pub(crate) fn wait() {
    while !seen() {
        std::thread::sleep(Duration::from_millis(100));
    }
}
