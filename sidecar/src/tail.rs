//! `/tail`: a live copy of the records as they are made, for a person who looks.
//!
//! Data threads publish; each subscriber has a bounded queue of its own. A full queue drops lines and says how many: the
//! data path never waits, and without subscribers it only reads one pointer. What a stream seals about itself is not shown, but for
//! gaps and bursts.

use arc_swap::ArcSwap;
use bytes::Bytes;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Most people who look at the same time.
pub const SUBSCRIBERS_MAX: usize = 4;

/// Most lines that wait for one of them.
pub const LINES_MAX: usize = 512;

/// Most bytes that wait for one of them; one more line is taken as long as fewer wait.
pub const BYTES_MAX: usize = 512 * 1024;

/// Those who look. Clones share them.
#[derive(Clone, Default)]
pub struct Tail {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Read by data threads for each record.
    subscribers: ArcSwap<Vec<Arc<Subscriber>>>,
    /// Held while the list changes.
    change: Mutex<()>,
}

struct Subscriber {
    lines: mpsc::Sender<Bytes>,
    waiting_bytes: AtomicUsize,
    dropped: AtomicU64,
}

/// The lines of one subscriber; it unsubscribes when it is dropped.
pub struct Lines {
    tail: Tail,
    subscriber: Arc<Subscriber>,
    lines: mpsc::Receiver<Bytes>,
}

impl Tail {
    /// Begins to listen; `None` when [`SUBSCRIBERS_MAX`] do.
    pub fn subscribe(&self) -> Option<Lines> {
        let (sender, lines) = mpsc::channel(LINES_MAX);
        let subscriber = Arc::new(Subscriber { lines: sender, waiting_bytes: 0.into(), dropped: 0.into() });
        let _changing = self.shared.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list = Vec::clone(&self.shared.subscribers.load());
        if list.len() >= SUBSCRIBERS_MAX {
            return None;
        }
        list.push(subscriber.clone());
        self.shared.subscribers.store(Arc::new(list));
        Some(Lines { tail: self.clone(), subscriber, lines })
    }

    /// Shows a record: the name of its event and its canonical body, a JSON object. Never blocks.
    pub fn publish(&self, event: &str, body: &[u8]) {
        let subscribers = self.shared.subscribers.load();
        if subscribers.is_empty() {
            return;
        }
        let mut line = Vec::with_capacity(body.len() + event.len() + 32);
        line.extend_from_slice(b"{\"event\":\"");
        line.extend_from_slice(event.as_bytes());
        line.extend_from_slice(b"\",\"record\":");
        line.extend_from_slice(body);
        line.extend_from_slice(b"}\n");
        let line = Bytes::from(line);
        for subscriber in subscribers.iter() {
            subscriber.offer(line.clone());
        }
    }
}

impl Subscriber {
    fn offer(&self, line: Bytes) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 && !self.push(notice(dropped)) {
            self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
            return;
        }
        if !self.push(line) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn push(&self, line: Bytes) -> bool {
        if self.waiting_bytes.load(Ordering::Relaxed) >= BYTES_MAX {
            return false;
        }
        let bytes = line.len();
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let taken = self.lines.try_send(line).is_ok();
        if !taken {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        taken
    }
}

/// The line that tells of lines that did not fit.
fn notice(dropped: u64) -> Bytes {
    Bytes::from(format!("{{\"dropped\":{dropped}}}\n"))
}

impl Lines {
    /// The next line, with its line feed.
    pub fn poll_line(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match self.lines.poll_recv(context) {
            Poll::Ready(Some(line)) => {
                self.subscriber.waiting_bytes.fetch_sub(line.len(), Ordering::Relaxed);
                Poll::Ready(Some(line))
            }
            Poll::Ready(None) => Poll::Ready(None),
            // All that waited is out: what was dropped since is told now, and not at the next record.
            Poll::Pending => match self.subscriber.dropped.swap(0, Ordering::Relaxed) {
                0 => Poll::Pending,
                dropped => Poll::Ready(Some(notice(dropped))),
            },
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _changing = self.tail.shared.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list = Vec::clone(&self.tail.shared.subscribers.load());
        list.retain(|other| !Arc::ptr_eq(other, &self.subscriber));
        self.tail.shared.subscribers.store(Arc::new(list));
    }
}

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        self.get_mut().poll_line(context).map(|line| line.map(|line| Ok(hyper::body::Frame::data(line))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn next(lines: &mut Lines) -> Option<String> {
        match lines.poll_line(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(line)) => Some(String::from_utf8(line.to_vec()).expect("text")),
            Poll::Ready(None) | Poll::Pending => None,
        }
    }

    #[test]
    fn every_subscriber_gets_every_record_and_a_place_comes_back() {
        let tail = Tail::default();
        tail.publish("audit.http.request", b"{}");
        let mut all: Vec<Lines> = (0..SUBSCRIBERS_MAX).filter_map(|_| tail.subscribe()).collect();
        assert_eq!(all.len(), SUBSCRIBERS_MAX);
        assert!(tail.subscribe().is_none());
        tail.publish("audit.http.request", br#"{"method":"GET"}"#);
        for lines in &mut all {
            let line = next(lines).expect("a line");
            assert_eq!(line, "{\"event\":\"audit.http.request\",\"record\":{\"method\":\"GET\"}}\n");
            assert_eq!(next(lines), None);
        }
        all.pop();
        assert!(tail.subscribe().is_some());
    }

    #[test]
    fn what_does_not_fit_is_told_at_its_place() {
        let tail = Tail::default();
        let mut lines = tail.subscribe().expect("a place");
        let wide = vec![b'x'; BYTES_MAX / 4];
        for _ in 0..7 {
            tail.publish("e", &wide);
        }
        // Four fit: the bound is looked at before a line is taken.
        let fitted: Vec<String> = (0..4).filter_map(|_| next(&mut lines)).collect();
        assert!(fitted.len() == 4 && fitted.iter().all(|line| line.contains("xxx")));
        tail.publish("e", b"1");
        assert_eq!(next(&mut lines).as_deref(), Some("{\"dropped\":3}\n"));
        assert_eq!(next(&mut lines).as_deref(), Some("{\"event\":\"e\",\"record\":1}\n"));
        for _ in 0..LINES_MAX + 5 {
            tail.publish("e", b"1");
        }
        let all: Vec<String> = std::iter::from_fn(|| next(&mut lines)).collect();
        assert_eq!(all.len(), LINES_MAX + 1);
        assert_eq!(all.last().map(String::as_str), Some("{\"dropped\":5}\n"));
    }
}
