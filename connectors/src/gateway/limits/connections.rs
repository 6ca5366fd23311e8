//! How many connections there are at a time: in all, from each address, of each user.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Limits;
use super::rates::network;
use crate::gateway::auth::{Identity, Refusal};

/// What somebody is told to wait who has too many; when one will be closed is not known.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Counts connections. Cheap to clone.
#[derive(Clone)]
pub struct Connections(Arc<Shared>);

struct Shared {
    max: u32,
    per_address_max: u32,
    per_user_max: u32,
    counts: Mutex<Counts>,
}

/// INVARIANT: no count of an address or user is 0, so there are no more of them than connections.
#[derive(Default)]
struct Counts {
    all: u32,
    by_address: HashMap<IpAddr, u32>,
    by_user: HashMap<User, u32>,
}

/// Tenant and actor.
type User = (String, String);

/// A connection that is counted until this is dropped.
pub struct Connection {
    shared: Arc<Shared>,
    address: IpAddr,
    user: Option<User>,
}

impl Connections {
    pub fn new(limits: &Limits) -> Self {
        Self(Arc::new(Shared {
            max: limits.connections_max,
            per_address_max: limits.connections_per_address_max,
            per_user_max: limits.connections_per_user_max,
            counts: Mutex::default(),
        }))
    }

    /// Counts one more; `None` is somebody of whom nobody knows who it is, as without authentication.
    ///
    /// # Errors
    /// [`Refusal::TooMany`]; then nothing is counted.
    pub fn open(&self, identity: Option<&Identity>, address: IpAddr) -> Result<Connection, Refusal> {
        let address = network(address);
        let user = identity.map(|identity| (identity.tenant.clone(), identity.actor.clone()));
        let of_user = |counts: &Counts| user.as_ref().map_or(0, |user| count(&counts.by_user, user));
        let mut counts = self.0.counts();
        for (what, open, max) in [
            ("connections", counts.all, self.0.max),
            ("connections from this address", count(&counts.by_address, &address), self.0.per_address_max),
            ("connections of this user", of_user(&counts), self.0.per_user_max),
        ] {
            if open >= max {
                return Err(Refusal::TooMany { what, retry_after: RETRY_AFTER });
            }
        }
        counts.all += 1;
        *counts.by_address.entry(address).or_default() += 1;
        if let Some(user) = &user {
            *counts.by_user.entry(user.clone()).or_default() += 1;
        }
        drop(counts);
        Ok(Connection { shared: self.0.clone(), address, user })
    }

    /// Those that are open.
    pub fn count(&self) -> u32 {
        self.0.counts().all
    }
}

impl Shared {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut counts = self.shared.counts();
        counts.all -= 1;
        forget(&mut counts.by_address, &self.address);
        if let Some(user) = &self.user {
            forget(&mut counts.by_user, user);
        }
    }
}

fn count<K: Hash + Eq>(counts: &HashMap<K, u32>, key: &K) -> u32 {
    counts.get(key).copied().unwrap_or(0)
}

fn forget<K: Hash + Eq>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_holds_and_what_is_closed_makes_room() {
        let limits = Limits { connections_max: 4, connections_per_address_max: 3, ..Limits::default() };
        let connections = Connections::new(&Limits { connections_per_user_max: 2, ..limits });
        let here = IpAddr::from([192, 0, 2, 1]);
        let there = IpAddr::from([192, 0, 2, 2]);
        let (ann, bob) = (Identity::anyone(), Identity { actor: "bob".to_owned(), ..Identity::anyone() });
        let refused = |identity: Option<&Identity>, address| match connections.open(identity, address) {
            Err(refusal) => refusal.reason().to_owned(),
            Ok(_) => String::new(),
        };
        let first = connections.open(Some(&ann), here).expect("room");
        let second = connections.open(Some(&ann), here).expect("room");
        assert_eq!(refused(Some(&ann), there), "connections of this user");
        let third = connections.open(None, here).expect("room");
        assert_eq!(refused(Some(&bob), here), "connections from this address");
        let fourth = connections.open(Some(&bob), there).expect("room");
        assert_eq!(refused(None, there), "connections");
        assert_eq!(connections.count(), 4);
        drop(first);
        assert_eq!(refused(Some(&ann), here), "");
        drop((second, third, fourth));
        let counts = connections.0.counts();
        assert_eq!((counts.all, counts.by_address.len(), counts.by_user.len()), (0, 0, 0));
    }
}
