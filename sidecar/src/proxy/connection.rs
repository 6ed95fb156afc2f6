//! The life of one accepted connection.

use super::alarm::{Alarm, Waits};
use super::flow::{Flow, Lost, record_loop};
use super::h2;
use super::relay::Relay;
use crate::config::Target;
use crate::data::{Recorder, now};
use crate::redirect_dst::{original_destination, unmapped};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use testimony_core::capture::{ConnFacts, Shell as _};
use testimony_core::policy::Direction;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

/// Most connections of one data thread and direction; at the limit the next ones wait in the backlog.
pub const CONNECTIONS_MAX: usize = 16 * 1024;

/// A request head, or a first line, must be whole after this time.
pub(super) const HEAD_DEADLINE: Duration = Duration::from_secs(60);

/// A client that was given its last answer, or whose origin has closed, may keep its side open for so long.
pub(super) const LINGER_DEADLINE: Duration = Duration::from_secs(20);

/// A connection on which nothing moved for so long is closed.
pub(super) const IDLE_DEADLINE: Duration = Duration::from_secs(4 * 3600);

/// How far the shutdown is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Not begun.
    No,
    /// Finish what is under way.
    Finish,
    /// End everything now.
    Abort,
}

/// What the proxy knows of the pod it stands in.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// The pod's addresses.
    pub ips: Vec<IpAddr>,
    /// Addresses from which the node reaches the pod.
    pub node_ips: Vec<IpAddr>,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub actor: Option<Arc<str>>,
    /// Ports of our own listeners.
    pub own_ports: Vec<u16>,
}

/// Serves one accepted connection to its end.
pub(super) async fn serve_one(
    client: TcpStream,
    peer: SocketAddr,
    direction: Direction,
    target: &Target,
    pod: &Pod,
    mut recorder: Recorder,
    drain: watch::Receiver<Drain>,
) {
    let Ok(accepted_at) = client.local_addr().map(unmapped) else { return };
    let peer = unmapped(peer);
    let destination = match target {
        Target::OriginalDestination => original_destination(&client).map(unmapped),
        Target::Fixed(place) => resolve(&place.host, place.port).await,
    };
    let conn_id = recorder.random() as u64;
    let facts = |destination: SocketAddr| {
        let local = match target {
            Target::OriginalDestination => destination,
            Target::Fixed(_) => accepted_at,
        };
        let (peer, local) = match direction {
            Direction::Inbound => (peer, local),
            Direction::Outbound => (destination, peer),
        };
        let from_node = direction == Direction::Inbound && pod.node_ips.contains(&peer.ip());
        let pod_actor = pod.actor.clone();
        ConnFacts { direction, conn_id, peer, local, upstream_local: None, pod_actor, from_node, peer_name: None }
    };
    let destination = match destination {
        Ok(destination) if !leads_back(destination, pod) => destination,
        Ok(destination) => {
            recorder.shared().metrics.refused("loop");
            return record_loop(facts(destination), recorder);
        }
        Err(error) => {
            tracing::debug!(%peer, %error, "a connection without a destination was closed");
            recorder.shared().metrics.refused("no_destination");
            return record_loop(facts(accepted_at), recorder);
        }
    };
    let mut conn = facts(destination);
    let flow = if recorder.policy().captures(direction, conn.port()) {
        conn.peer_name = recorder.shared().names.as_ref().map(|names| names.place(conn.peer.ip()));
        Flow::captured(conn, recorder)
    } else {
        Flow::passed(conn, recorder)
    };
    let relay = run(Relay::new(client, Box::pin(TcpStream::connect(destination)), flow), drain.clone()).await;
    if let Some(handoff) = relay.and_then(Relay::into_http2) {
        // In a box: connections of other protocols do not pay for its size.
        Box::pin(h2::serve(handoff, drain)).await;
    }
}

/// What a connection waits for.
enum Event {
    Over,
    Rang,
}

/// Moves bytes until the pair is over, or turns out to be HTTP/2.
async fn run(mut relay: Relay, mut drain: watch::Receiver<Drain>) -> Option<Relay> {
    let mut alarm = Alarm::new(now().mono_ns);
    let mut idle_since = Instant::now();
    let mut head_since = None;
    loop {
        let event = poll_fn(|cx| {
            if relay.poll(cx).is_ready() {
                return Poll::Ready(Event::Over);
            }
            let waits = Waits::of(&relay);
            if alarm.is_late_for(&waits) {
                alarm.set(now().mono_ns, &waits);
            }
            alarm.poll(cx).map(|()| Event::Rang)
        });
        tokio::select! {
            biased;
            event = event => match event {
                Event::Over => return Some(relay),
                Event::Rang => {}
            },
            changed = drain.changed() => {
                let state = if changed.is_ok() { *drain.borrow_and_update() } else { Drain::Abort };
                match state {
                    Drain::No => {}
                    Drain::Finish => relay.drain(),
                    Drain::Abort => {
                        relay.abort(Lost::Drained);
                        return None;
                    }
                }
                continue;
            }
        }
        let stamp = now();
        relay.tick(stamp);
        alarm.set(stamp.mono_ns, &Waits::of(&relay));
        let now = Instant::now();
        if relay.take_activity() {
            idle_since = now;
        }
        if !relay.is_in_head() {
            head_since = None;
        } else if now.duration_since(*head_since.get_or_insert(now)) >= HEAD_DEADLINE {
            relay.abort(Lost::TimedOut);
            return None;
        }
        let idle = now.duration_since(idle_since);
        if idle >= LINGER_DEADLINE && relay.is_lingering() {
            return None;
        }
        if idle >= IDLE_DEADLINE {
            relay.abort(Lost::TimedOut);
            return None;
        }
    }
}

/// Whether a destination is one of our own listeners: dialling it would go round in circles.
fn leads_back(destination: SocketAddr, pod: &Pod) -> bool {
    let ip = destination.ip();
    let is_local = ip.is_loopback() || ip.is_unspecified() || pod.ips.contains(&ip);
    is_local && pod.own_ports.contains(&destination.port())
}

async fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    let mut found = tokio::net::lookup_host((host, port)).await?;
    found.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")))
}
