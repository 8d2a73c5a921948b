//! Types that the eBPF programs and the agent share: map keys and values, events, counters.
#![no_std]
