//! Who may connect: so many at one time, from one address and in all, that nobody keeps the others out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

/// Counts connections.
#[derive(Debug)]
pub(crate) struct Gate {
    inside: Mutex<HashMap<IpAddr, usize>>,
    each: usize,
    all: usize,
}

/// A connection's place; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Pass {
    gate: Arc<Gate>,
    address: IpAddr,
}

/// Who counts as one: an IPv4 address, or the 64 bits of an IPv6 address that a network is given.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

impl Gate {
    /// Lets in `each` connections of one address, and `all` in all.
    pub(crate) fn new(each: usize, all: usize) -> Arc<Self> {
        Arc::new(Self { inside: Mutex::default(), each, all })
    }

    /// A place for a connection from `address`; `None` when there is none: it is to be closed at once.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Pass> {
        let address = source(address);
        let mut inside = self.inside.lock().ok()?;
        if inside.values().sum::<usize>() >= self.all {
            return None;
        }
        let count = inside.entry(address).or_default();
        if *count >= self.each {
            return None;
        }
        *count += 1;
        Some(Pass { gate: Arc::clone(self), address })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Ok(mut inside) = self.gate.inside.lock()
            && let Some(count) = inside.get_mut(&self.address)
        {
            *count -= 1;
            if *count == 0 {
                inside.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_keep_others_out() {
        let gate = Gate::new(2, 3);
        let (one, other) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let first = gate.enter(one).expect("a place");
        let _second = gate.enter(one).expect("a place");
        assert!(gate.enter(one).is_none(), "no third of one address");
        let _third = gate.enter(other).expect("a place");
        assert!(gate.enter(other).is_none(), "no fourth in all");
        drop(first);
        assert!(gate.enter(one).is_some());
    }

    #[test]
    fn a_network_of_version_6_counts_as_one() {
        let gate = Gate::new(1, 9);
        let _one = gate.enter("2001:db8::1".parse().expect("an address")).expect("a place");
        assert!(gate.enter("2001:db8::2".parse().expect("an address")).is_none());
        assert!(gate.enter("2001:db8:0:1::2".parse().expect("an address")).is_some());
        let _mapped = gate.enter("::ffff:10.0.0.1".parse().expect("an address")).expect("a place");
        assert!(gate.enter([10, 0, 0, 1].into()).is_none());
    }
}
