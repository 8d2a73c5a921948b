//! The threads that run PostgreSQL's own parser.
//!
//! `pg_query` is the server's C code. Three of its habits ask for threads of its own:
//!
//! - While it parses it points file descriptor 2 at a pipe, and back afterwards. Two parses at once
//!   would leave the process's standard error on a closed pipe, and what others log meanwhile is lost.
//!   Each parser thread therefore has a file descriptor table of its own.
//! - It makes a `pthread` key for every thread that it ever runs on, of which a process has 1,024.
//!   So there are a few threads, which live as long as the process.
//! - Its recursion, and ours over its trees, follows the text's nesting. The threads have stacks that
//!   hold the deepest tree that it hands out (10,000 nested messages, some 5,000 levels of SQL); they
//!   cost address space, not memory, until they are used.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use pg_query::ParserOptions;
use pg_query::protobuf::{RawStmt, ScanToken};

/// The longest text that is parsed, in bytes.
pub const MAX_TEXT: usize = 4 << 20;

/// The most tokens (words, constants, signs) in a text that is parsed. While a parse lasts it takes up
/// to some 500 bytes for each: a row of numbers makes a tree far larger than its text.
pub const MAX_TOKENS: usize = 600_000;

/// Texts longer than this, in bytes, are parsed one at a time on a thread of their own, so that they
/// take memory once and hold up no others.
const LARGE: usize = 128 << 10;

/// A text up to this size, in bytes, is read in less than a millisecond or two.
const PROMPT: usize = 4 << 10;

/// Stack of a parser thread, in bytes.
const STACK: usize = 512 << 20;

/// The most parser threads there are.
const MAX_THREADS: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

thread_local! {
    static IS_PARSER: Cell<bool> = const { Cell::new(false) };
}

/// The threads could not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The operating system gave no thread.
    #[error("no thread could be started to parse the statement")]
    NoThread,
    /// The job panicked.
    #[error("the parser failed on this statement; please report it")]
    Panicked,
}

/// Runs `job`, which parses some `size` bytes, on a parser thread and waits for its result.
pub(super) fn run<R: Send + 'static>(
    size: usize,
    job: impl FnOnce() -> R + Send + 'static,
) -> Result<R, Failure> {
    if IS_PARSER.get() {
        return catch_unwind(AssertUnwindSafe(job)).map_err(|_| Failure::Panicked);
    }
    static LARGE_JOBS: OnceLock<Option<SyncSender<Job>>> = OnceLock::new();
    static JOBS: OnceLock<Option<SyncSender<Job>>> = OnceLock::new();
    let jobs = if size > LARGE {
        LARGE_JOBS.get_or_init(|| start("sql-large", 1))
    } else {
        JOBS.get_or_init(|| {
            let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS));
            start("sql-parser", threads)
        })
    };
    let jobs = jobs.as_ref().ok_or(Failure::NoThread)?;
    let (answer, result): (Sender<R>, Receiver<R>) = channel();
    let job = Box::new(move || {
        if let Ok(value) = catch_unwind(AssertUnwindSafe(job)) {
            // The receiver waits below for as long as the sender lives.
            let _ = answer.send(value);
        }
    });
    let wait = || {
        jobs.send(job).map_err(|_| Failure::NoThread)?;
        result.recv().map_err(|_| Failure::Panicked)
    };
    // A large text takes seconds, and others wait for it: the other flows of this thread of the runtime
    // go on elsewhere meanwhile. For a small one that would cost more than it takes.
    let runtime = tokio::runtime::Handle::try_current().map(|runtime| runtime.runtime_flavor());
    if size > PROMPT && matches!(runtime, Ok(tokio::runtime::RuntimeFlavor::MultiThread)) {
        tokio::task::block_in_place(wait)
    } else {
        wait()
    }
}

fn start(name: &str, threads: usize) -> Option<SyncSender<Job>> {
    let (send, receive) = sync_channel::<Job>(threads);
    let receive = Arc::new(Mutex::new(receive));
    let started = (0..threads)
        .filter(|_| {
            let receive = Arc::clone(&receive);
            std::thread::Builder::new()
                .name(name.to_owned())
                .stack_size(STACK)
                .spawn(move || work(&receive))
                .is_ok()
        })
        .count();
    (started > 0).then_some(send)
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    /// Held over a job where the kernel gave the thread no file descriptor table of its own.
    static ALONE: Mutex<()> = Mutex::new(());

    IS_PARSER.set(true);
    let own_table = unshare_files();
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let _guard = (!own_table).then(|| ALONE.lock().unwrap_or_else(PoisonError::into_inner));
        job();
    }
}

/// Gives this thread a file descriptor table of its own, with standard input, output and error alone
/// in it. Linux 5.9.
#[allow(unsafe_code)]
fn unshare_files() -> bool {
    /// `CLOSE_RANGE_UNSHARE` of `linux/close_range.h`.
    const UNSHARE: libc::c_uint = 1 << 1;
    // SAFETY: the call has no pointers. It closes descriptors of this thread's new table only, and
    // nothing that runs on this thread owns one.
    unsafe { libc::syscall(libc::SYS_close_range, 3 as libc::c_uint, libc::c_uint::MAX, UNSHARE) == 0 }
}

/// The grammar to read a text with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grammar {
    /// SQL statements.
    Sql,
    /// One of PL/pgSQL's expressions, by the number that its compiler gives (`RawParseMode`).
    Plpgsql(i64),
}

/// Why a text of this size is not read.
pub(super) fn too_large(text: &str) -> String {
    format!("the text has {} bytes; at most {MAX_TEXT} are read", text.len())
}

/// Parses `text`. To be called on a parser thread.
pub(super) fn parse(text: &str, grammar: Grammar) -> Result<Vec<RawStmt>, String> {
    debug_assert!(IS_PARSER.get());
    if text.len() > MAX_TEXT {
        return Err(too_large(text));
    }
    if text.len() > LARGE {
        let tokens = scan(text)?.len();
        if tokens > MAX_TOKENS {
            return Err(format!("the text has {tokens} words and signs; at most {MAX_TOKENS} are read"));
        }
    }
    let options = match grammar {
        Grammar::Plpgsql(2) => ParserOptions::PLPGSQL_EXPR,
        Grammar::Plpgsql(3) => ParserOptions::PLPGSQL_ASSIGN1,
        Grammar::Plpgsql(4) => ParserOptions::PLPGSQL_ASSIGN2,
        Grammar::Plpgsql(5) => ParserOptions::PLPGSQL_ASSIGN3,
        Grammar::Sql | Grammar::Plpgsql(_) => ParserOptions::DEFAULT,
    };
    match pg_query::parse(text, options) {
        Ok(result) => Ok(result.protobuf.stmts),
        Err(pg_query::Error::Parse(message)) => Err(message),
        Err(error) => Err(error.to_string()),
    }
}

/// The tokens of `text`, comments included. To be called on a parser thread.
pub(super) fn scan(text: &str) -> Result<Vec<ScanToken>, String> {
    debug_assert!(IS_PARSER.get());
    // The scanner gives no list at all where there are no tokens, which its binding does not expect.
    if text.bytes().all(|byte| byte.is_ascii_whitespace() || byte == 0x0b) {
        return Ok(Vec::new());
    }
    pg_query::scan_tokens(text).map_err(|error| match error {
        pg_query::Error::Scan(message) => message,
        error => error.to_string(),
    })
}
