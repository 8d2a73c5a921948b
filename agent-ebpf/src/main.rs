//! The kernel side of Interlock: redirects designated processes' connections and tracks processes.
//!
//! `docs/interception.md` tells how the programs work together.
#![no_std]
#![no_main]

mod cgroup;
mod connect;
mod designate;
mod event;
mod kernel;
mod maps;
mod process;
mod socket;
mod sweep;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
