//! Capture: from what the connection shows to exactly one `exchange` record for each exchange (EV-1), with `stage` records
//! before it when it stays open.
//!
//! Nothing here reads a clock, makes randomness or sends anything: the data thread gives all three as a [`Shell`].

mod exchange;
mod grpc;
mod http;
mod in_flight;
mod opaque;
mod receipt;
mod request;
mod stage;
mod stream;
#[cfg(test)]
mod stream_tests;
pub(crate) mod target;
#[cfg(test)]
mod tests;
mod tracing;

pub use http::HttpCapture;
pub use httparse::Header;
pub use in_flight::{Candidate, InFlight, Ticket};
pub use opaque::{OpaqueCapture, OpaqueEnd, Paused};
pub use receipt::{Begun, Hold, Receipt};
pub use stage::{
    CONNECTION_OPENED_AFTER_MS, EXCHANGE_OPENED_AFTER_MS, NEVER_NS, PROGRESS_EVERY_SECONDS, Stage, Stages,
};
pub use stream::{AUDIT_FAILED, FieldEdit, StreamCapture, StreamEnd, StreamRequest};

use crate::names::Bearer;
use crate::policy::{Compiled, Direction};
use crate::record::{EventName, Field, RECORD_VERSION, Record, Redacted, ShortText, Stamp, hex, uuid_v7};
use crate::redact::redact;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

/// How an exchange ended, for the record and for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Status below 400 (and status 0 of gRPC), or a connection that ended in order.
    Success,
    /// It failed, whoever's fault.
    Failure,
    /// We can't tell.
    Unknown,
}

impl Outcome {
    /// As it stands in records and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Unknown => "unknown",
        }
    }
}

/// What capture needs from the data thread.
pub trait Shell {
    /// The time now.
    fn now(&self) -> Stamp;
    /// 128 random bits.
    fn random(&mut self) -> u128;
    /// The policy in force now.
    fn policy(&self) -> Arc<Compiled>;
    /// Runs `f` on the table of inbound exchanges in flight in this pod.
    fn in_flight<R>(&mut self, f: impl FnOnce(&mut InFlight) -> R) -> R;
    /// Takes a finished record. Never blocks; says when it will be durable.
    fn emit(&mut self, record: Redacted<Record>) -> Receipt;
    /// Takes a finished record for which nothing waits: it may be redacted and sealed a little later, as this policy says, so
    /// that requests go first.
    fn emit_late(&mut self, record: Record, policy: Arc<Compiled>) {
        let _ = self.emit(redact(record, policy.redactor()));
    }
    /// Takes what is known of an exchange before its request goes on (T2): it becomes a record only if the process dies
    /// before [`Shell::emit_end`].
    fn emit_begin(&mut self, record: Redacted<Record>) -> Begun;
    /// Takes the record of an exchange that [`Shell::emit_begin`] told of.
    fn emit_end(&mut self, record: Redacted<Record>, begun: Begun) -> Receipt;
    /// Whether a record would be taken now. Asked under `failureMode: Closed` alone.
    fn can_record(&self) -> bool;
    /// Counts an exchange that begins and that policy looks at.
    fn begin(&mut self);
    /// Counts it at its end. `none`: policy wants no record of it.
    fn count(&mut self, direction: Direction, outcome: Outcome, none: Option<Unrecorded<'_>>);
    /// Counts a message that the proxy refused, by name: [`crate::http1::Refusal::as_str`], or one of HTTP/2.
    fn count_refused(&mut self, reason: &'static str);
    /// Counts an exchange for which it could not be told whether a rule of a policy matches, by
    /// [`crate::policy::Undecided::as_str`].
    fn count_undecided(&mut self, reason: &'static str);
}

/// Which rule of which policy revision wants no record of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unrecorded<'a> {
    /// Revision of the policy document.
    pub revision: &'a str,
    /// Name of the rule; `unselected` where no policy looks at the exchange any more.
    pub rule: &'a str,
}

/// What is known of an accepted connection.
#[derive(Clone, Debug)]
pub struct ConnFacts {
    /// To the pod or from it.
    pub direction: Direction,
    /// Random number of the connection.
    pub conn_id: u64,
    /// Inbound: the client. Outbound: the destination.
    pub peer: SocketAddr,
    /// Inbound: the original destination. Outbound: the application's own address.
    pub local: SocketAddr,
    /// Local address of our socket to the destination, once it is connected.
    pub upstream_local: Option<SocketAddr>,
    /// `system:serviceaccount:NAMESPACE:NAME` of this pod: the actor of outbound requests that name nobody.
    pub pod_actor: Option<Arc<str>>,
    /// The client is the node: the kubelet's probes come from there.
    pub from_node: bool,
    /// The other side's name, once it is known; `None` where nobody names addresses.
    pub peer_name: Option<PeerName>,
}

/// A place for a name that may come while the connection is open.
pub type PeerName = Arc<OnceLock<Bearer>>;

impl ConnFacts {
    /// Port of the original destination.
    pub fn port(&self) -> u16 {
        match self.direction {
            Direction::Inbound => self.local.port(),
            Direction::Outbound => self.peer.port(),
        }
    }

    /// Address of the original destination.
    fn destination(&self) -> SocketAddr {
        match self.direction {
            Direction::Inbound => self.local,
            Direction::Outbound => self.peer,
        }
    }

    /// `xid` of the exchange with this number.
    fn xid(&self, seq: u64) -> ShortText {
        ShortText::xid(self.conn_id, seq)
    }

    /// Begins a record with what every exchange on this connection has in common.
    fn record(&self, event: EventName, seq: u64, start: Stamp) -> Record {
        let mut record = Record::new(event);
        record.set(Field::V, RECORD_VERSION.as_bytes());
        record.set(Field::Typ, b"exchange");
        record.set_int(Field::T0, start.wall_ns);
        record.set(Field::ConnId, &hex::<8, 16>(self.conn_id.to_be_bytes()));
        record.set_int(Field::ConnSeq, seq);
        record.set(Field::Xid, self.xid(seq).as_bytes());
        let direction = match self.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        record.set(Field::Dir, direction.as_bytes());
        set_address(&mut record, Field::Peer, self.peer);
        set_address(&mut record, Field::Local, self.local);
        record
    }

    /// The actor when the exchange itself names none.
    fn set_connection_actor(&self, record: &mut Record) {
        match (&self.direction, &self.pod_actor) {
            (Direction::Outbound, Some(actor)) => {
                set_actor(record, actor, "service", "pod", "unverified");
            }
            (Direction::Outbound, None) => set_actor(record, "unknown", "unknown", "address", "none"),
            (Direction::Inbound, _) => {
                set_actor(record, ShortText::of_ip(self.peer.ip()).as_str(), "unknown", "address", "unverified");
            }
        }
    }

    /// Ends a record: times, duration, id, where it went.
    fn close(&self, record: &mut Record, start: Stamp, now: Stamp, random: u128) {
        record.set_int(Field::T1, now.wall_ns);
        record.set_int(Field::Dur, now.mono_ns.saturating_sub(start.mono_ns));
        record.set(Field::Id, &uuid_v7(now.wall_ns, random));
        if let Some(address) = self.upstream_local {
            set_address(record, Field::UpstreamLocal, address);
        }
        self.name_peer(record);
    }

    /// Says who the other side is, as far as its address tells. A request that names nobody was made by that pod's
    /// ServiceAccount.
    fn name_peer(&self, record: &mut Record) {
        let Some(place) = &self.peer_name else { return };
        let Some(bearer) = place.get() else { return record.set(Field::PeerSrc, b"unknown") };
        bearer.describe(record);
        let unnamed =
            record.get(Field::AuthMethod) == Some(b"address") && record.get(Field::ActorType) == Some(b"unknown");
        if let Some(actor) = bearer.actor().filter(|_| unnamed && self.direction == Direction::Inbound) {
            record.set(Field::Actor, actor.as_bytes());
            record.set(Field::ActorType, b"service");
        }
    }
}

fn set_actor(record: &mut Record, actor: &str, kind: &str, method: &str, assurance: &str) {
    record.set(Field::Actor, actor.as_bytes());
    record.set(Field::ActorType, kind.as_bytes());
    record.set(Field::AuthMethod, method.as_bytes());
    record.set(Field::Assurance, assurance.as_bytes());
}

fn set_address(record: &mut Record, field: Field, address: SocketAddr) {
    record.set(field, ShortText::with_port(address).as_bytes());
}
