//! The table of names. Pure but for its lock; the data threads look into it once for each connection.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use testimony_core::capture::PeerName;
use testimony_core::names::{ADDRESSES_MAX, NEIGHBOURS_MAX, NamesRequest, NamesResponse};
use tokio::sync::Notify;

/// An address that so many answers did not name is taken for one of nobody in the cluster.
const ANSWERS_MIN: u8 = 3;

/// Clones share the table.
#[derive(Clone, Default)]
pub struct Names {
    inner: Arc<Mutex<Table>>,
    asked: Arc<Notify>,
}

#[derive(Default)]
struct Table {
    entries: HashMap<IpAddr, Entry>,
    /// Counts look-ups: the least recently used entry goes first.
    clock: u64,
    /// Digest of the last answer.
    digest: Option<String>,
    /// An address that the last answer does not cover.
    news: bool,
}

struct Entry {
    place: PeerName,
    /// 0: a neighbour that no connection has shown.
    used: u64,
    /// Answers that did not name it, as far as they matter.
    unnamed: u8,
}

impl Names {
    /// A place that holds the address's name, or will once the operator has told it. A connection that has taken a place
    /// keeps it: whoever gets the address later is named in another one.
    pub fn place(&self, address: IpAddr) -> PeerName {
        let address = address.to_canonical();
        let mut table = self.lock();
        table.clock = table.clock.wrapping_add(1).max(1);
        let clock = table.clock;
        if let Some(entry) = table.entries.get_mut(&address) {
            entry.used = clock;
            return entry.place.clone();
        }
        let place = PeerName::default();
        let entry = Entry { place: place.clone(), used: clock, unnamed: 0 };
        table.make_room();
        table.entries.insert(address, entry);
        table.news = true;
        drop(table);
        self.asked.notify_one();
        place
    }

    /// Waits until an address is met that nobody has asked for.
    pub async fn news(&self) {
        loop {
            let asked = self.asked.notified();
            if self.lock().news {
                return;
            }
            asked.await;
        }
    }

    /// What to ask the operator for now.
    pub fn wanted(&self) -> NamesRequest {
        let mut table = self.lock();
        table.news = false;
        let met = table.entries.iter().filter(|(_, entry)| entry.used > 0);
        let mut addresses: Vec<IpAddr> = met.map(|(address, _)| *address).take(ADDRESSES_MAX).collect();
        addresses.sort_unstable();
        let settled = |e: &Entry| e.used == 0 || e.unnamed > 0 || e.place.get().is_some();
        let known = table.digest.clone().filter(|_| table.entries.values().all(settled));
        NamesRequest { addresses, known }
    }

    /// Takes an answer over. `None`: the last one still holds. Returns whether an address should be asked for again soon:
    /// the operator may not have seen its pod yet.
    pub fn learn(&self, asked: &NamesRequest, answer: Option<NamesResponse>) -> bool {
        let mut table = self.lock();
        if let Some(answer) = answer {
            table.take(answer);
        }
        let mut unsure = false;
        for address in &asked.addresses {
            if let Some(entry) = table.entries.get_mut(address).filter(|entry| entry.place.get().is_none()) {
                entry.unnamed = entry.unnamed.saturating_add(1);
                unsure |= entry.unnamed < ANSWERS_MIN;
            }
        }
        unsure
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn take(&mut self, answer: NamesResponse) {
        self.digest = Some(answer.digest);
        let mut named = HashMap::with_capacity(answer.names.len());
        for name in answer.names.into_iter().take(ADDRESSES_MAX + NEIGHBOURS_MAX) {
            named.insert(name.address, name.bearer);
        }
        // Who lost the address, or was a neighbour and is none any more.
        self.entries.retain(|address, entry| {
            let stale = entry.place.get().is_some_and(|known| named.get(address) != Some(known));
            if stale {
                entry.place = PeerName::default();
            }
            entry.used > 0 || named.contains_key(address)
        });
        for (address, bearer) in named {
            if !self.entries.contains_key(&address) {
                self.make_room();
            }
            let empty = || Entry { place: PeerName::default(), used: 0, unnamed: 0 };
            let entry = self.entries.entry(address).or_insert_with(empty);
            // A place that is filled already holds this very name.
            let _ = entry.place.set(bearer);
        }
    }

    /// Forgets the entry that was used least recently, if the table is full.
    fn make_room(&mut self) {
        if self.entries.len() < ADDRESSES_MAX + NEIGHBOURS_MAX {
            return;
        }
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(address, _)| *address);
        if let Some(address) = oldest {
            self.entries.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testimony_core::names::{Bearer, Named};

    fn service(name: &str) -> Bearer {
        Bearer::Service { namespace: "shop".to_owned(), name: name.to_owned() }
    }

    fn answer(digest: &str, names: &[(&str, &str)]) -> Option<NamesResponse> {
        let named = names.iter().map(|(address, name)| Named { address: ip(address), bearer: service(name) });
        Some(NamesResponse { digest: digest.to_owned(), names: named.collect() })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_name_reaches_the_connections_that_wait_for_it() {
        let names = Names::default();
        let place = names.place(ip("::ffff:10.0.0.1"));
        assert!(place.get().is_none());
        let wanted = names.wanted();
        assert_eq!(wanted, NamesRequest { addresses: vec![ip("10.0.0.1")], known: None });
        names.learn(&wanted, answer("1", &[("10.0.0.1", "a"), ("10.0.0.2", "b")]));
        assert_eq!(place.get(), Some(&service("a")));
        assert_eq!(names.place(ip("10.0.0.2")).get(), Some(&service("b")), "a neighbour is known before it is met");
        assert_eq!(names.wanted().known.as_deref(), Some("1"));
    }

    #[test]
    fn who_gets_an_address_later_is_not_named_in_older_connections() {
        let names = Names::default();
        let old = names.place(ip("10.0.0.1"));
        names.learn(&names.wanted(), answer("1", &[("10.0.0.1", "a")]));
        names.learn(&names.wanted(), answer("2", &[("10.0.0.1", "b")]));
        assert_eq!(old.get(), Some(&service("a")));
        assert_eq!(names.place(ip("10.0.0.1")).get(), Some(&service("b")));
        names.learn(&names.wanted(), answer("3", &[]));
        assert!(names.place(ip("10.0.0.1")).get().is_none(), "nobody has it any more");
        names.learn(&names.wanted(), None);
        assert!(names.place(ip("10.0.0.1")).get().is_none());
    }

    #[test]
    fn a_new_address_makes_the_next_answer_whole() {
        let names = Names::default();
        names.place(ip("10.0.0.1"));
        names.learn(&names.wanted(), answer("1", &[]));
        assert_eq!(names.wanted().known.as_deref(), Some("1"));
        names.place(ip("10.0.0.2"));
        assert_eq!(names.wanted().known, None);
    }

    #[test]
    fn at_the_limit_the_address_goes_that_was_used_least_recently() {
        let names = Names::default();
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        let limit = (ADDRESSES_MAX + NEIGHBOURS_MAX) as u32;
        for n in 0..limit {
            names.place(address(n));
        }
        names.place(address(0));
        names.place(address(limit));
        let table = names.lock();
        assert_eq!(table.entries.len(), limit as usize);
        assert!(table.entries.contains_key(&address(0)) && !table.entries.contains_key(&address(1)));
        drop(table);
        assert_eq!(names.wanted().addresses.len(), ADDRESSES_MAX);
    }
}
