//! Requests a second, by user and by address.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::time::Duration;

use engram_pipeline::clock::{Clock, Moment};

use super::Limits;
use super::bucket::{Buckets, at_least_one, buckets, wait};
use crate::gateway::auth::{Identity, Refusal};

/// Users, and addresses, that are remembered. Those whose rate has been below theirs are forgotten first.
const KEYS_MAX: usize = 100_000;
/// Between two looks for whom to forget, which takes milliseconds.
const FORGET_EVERY: Duration = Duration::from_secs(1);

/// How often users and addresses may ask. Share it behind an `Arc`.
pub struct RateLimits {
    users: Rates<(String, String)>,
    addresses: Rates<IpAddr>,
}

struct Rates<K: Hash + Eq + Clone> {
    what: &'static str,
    buckets: Buckets<K>,
    keys_max: usize,
    clock: Clock,
    /// When keys were last forgotten.
    forgot: Mutex<Option<Moment>>,
}

impl RateLimits {
    pub fn new(limits: &Limits, clock: Clock) -> Self {
        let Limits { user_requests_per_second, user_requests_burst, .. } = limits;
        let Limits { address_requests_per_second, address_requests_burst, .. } = limits;
        let what = "requests of this user";
        let users = Rates::new(what, *user_requests_per_second, *user_requests_burst, clock.clone());
        let what = "requests from this address";
        let addresses = Rates::new(what, *address_requests_per_second, *address_requests_burst, clock);
        Self { users, addresses }
    }

    /// For every request, before its token is looked at, as that takes time.
    ///
    /// # Errors
    /// [`Refusal::TooMany`].
    pub fn address(&self, address: IpAddr) -> Result<(), Refusal> {
        self.addresses.check(&network(address))
    }

    /// For every request of somebody known.
    ///
    /// # Errors
    /// [`Refusal::TooMany`].
    pub fn user(&self, identity: &Identity) -> Result<(), Refusal> {
        self.users.check(&(identity.tenant.clone(), identity.actor.clone()))
    }
}

/// What one caller has for themselves: an IPv4 address, or the first 64 bits of one of IPv6.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

impl<K: Hash + Eq + Clone> Rates<K> {
    fn new(what: &'static str, per_second: u32, burst: u32, clock: Clock) -> Self {
        let buckets = buckets(at_least_one(per_second), at_least_one(burst), clock.clone());
        Self { what, buckets, keys_max: KEYS_MAX, clock, forgot: Mutex::new(None) }
    }

    fn check(&self, key: &K) -> Result<(), Refusal> {
        let refuse = |retry_after| Refusal::TooMany { what: self.what, retry_after };
        if self.buckets.len() >= self.keys_max {
            self.forget();
            // SUBTLE: to let in whoever is not known would be no limit at all, and to forget those that are known neither.
            if self.buckets.len() >= self.keys_max {
                return Err(refuse(FORGET_EVERY));
            }
        }
        self.buckets.check_key(key).map_err(|until| refuse(wait(&until, self.buckets.clock())))
    }

    /// Forgets whoever has their whole burst left, unless that was done just now.
    fn forget(&self) {
        let Ok(mut forgot) = self.forgot.try_lock() else { return };
        if forgot.is_none_or(|last| self.clock.since(last) >= FORGET_EVERY) {
            self.buckets.retain_recent();
            self.buckets.shrink_to_fit();
            *forgot = Some(self.clock.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use engram_pipeline::clock::ManualClock;

    use super::*;

    fn limits() -> Limits {
        let (user_requests_burst, address_requests_burst) = (3, 5);
        Limits {
            user_requests_per_second: 2,
            user_requests_burst,
            address_requests_per_second: 4,
            address_requests_burst,
            ..Limits::default()
        }
    }

    fn user(tenant: &str, actor: &str) -> Identity {
        Identity { tenant: tenant.to_owned(), actor: actor.to_owned(), ..Identity::anyone() }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_burst_is_let_in_and_then_so_many_a_second() {
        let hand = ManualClock::new(0);
        let rates = RateLimits::new(&limits(), hand.clock());
        let ann = user("default", "ann");
        let count = || (0..100).filter(|_| rates.user(&ann).is_ok()).count();
        assert_eq!(count(), 3);
        let refusal = rates.user(&ann).expect_err("too many");
        assert_eq!(
            refusal,
            Refusal::TooMany { what: "requests of this user", retry_after: Duration::from_millis(500) }
        );
        hand.advance(Duration::from_millis(499));
        assert_eq!(count(), 0);
        hand.advance(Duration::from_millis(501));
        assert_eq!(count(), 2);
        hand.advance(Duration::from_secs(3600));
        assert_eq!(count(), 3);
    }

    #[test]
    fn nobody_has_less_because_of_others() {
        let rates = RateLimits::new(&limits(), ManualClock::new(0).clock());
        for user in [user("default", "ann"), user("default", "bob"), user("acme", "ann")] {
            assert_eq!((0..10).filter(|_| rates.user(&user).is_ok()).count(), 3, "{user:?}");
        }
        for text in ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"] {
            assert_eq!((0..10).filter(|_| rates.address(address(text)).is_ok()).count(), 5, "{text}");
        }
        // Of the same caller.
        for text in ["::ffff:192.0.2.1", "2001:db8::ffff:2"] {
            assert_eq!(rates.address(address(text)).map_err(|refusal| refusal.status()), Err(429), "{text}");
        }
    }

    #[test]
    fn a_flood_of_addresses_takes_no_more_memory_than_it_may() {
        let hand = ManualClock::new(0);
        let mut rates = RateLimits::new(&limits(), hand.clock());
        rates.addresses.keys_max = 100;
        let flood =
            |from: u32| (from..from + 1_000).filter(|n| rates.address(IpAddr::from(n.to_be_bytes())).is_ok()).count();
        assert_eq!(flood(0), 100);
        assert_eq!(rates.addresses.buckets.len(), 100);
        // One request of a burst of 5 is forgotten after a quarter of a second, but looked for once a second.
        hand.advance(Duration::from_secs(1));
        assert_eq!(flood(5_000), 100);
        assert_eq!(rates.addresses.buckets.len(), 100);
    }
}
