//! Who waits until a record is durable (T1 to T4): one list for each data thread, and no task of its own for anybody.

use super::now;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use testimony_core::capture::Receipt;

/// Longest wait for a record to become durable, in milliseconds (T4).
pub const WAIT_MS_MAX: u64 = 1000;

const NANOS_PER_MILLI: u64 = 1_000_000;

/// What became of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The record is durable.
    Durable,
    /// It was not taken, or not durable in time.
    Failed,
}

/// All waits of one data thread.
#[derive(Default)]
pub struct Waiting {
    /// Everything before this place of the spool is durable.
    end: Cell<u64>,
    next: Cell<u64>,
    /// By place and number of the wait.
    wakers: RefCell<BTreeMap<(u64, u64), Waker>>,
}

/// One wait. When it is dropped, nobody waits any more.
pub struct Wait {
    all: Rc<Waiting>,
    until: Receipt,
    number: u64,
    due_ns: u64,
    late: bool,
}

impl Waiting {
    /// Whether anybody waits.
    pub fn is_empty(&self) -> bool {
        self.wakers.borrow().is_empty()
    }

    /// More is durable: wakes those who waited for it.
    pub fn durable(&self, end: u64) {
        if end <= self.end.replace(end) {
            return;
        }
        let ready = {
            let mut wakers = self.wakers.borrow_mut();
            let left = wakers.split_off(&(end, 0));
            std::mem::replace(&mut *wakers, left)
        };
        ready.into_values().for_each(Waker::wake);
    }

    /// Begins a wait.
    pub fn begin(self: &Rc<Self>, until: Receipt) -> Wait {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        let due_ns = now().mono_ns.saturating_add(WAIT_MS_MAX * NANOS_PER_MILLI);
        Wait { all: self.clone(), until, number, due_ns, late: false }
    }

    fn covers(&self, place: u64) -> bool {
        place < self.end.get()
    }
}

impl Wait {
    /// Ready: it is durable, or will not be in time.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Waited> {
        match self.until {
            Receipt::Counted => Poll::Ready(Waited::Durable),
            Receipt::Never => Poll::Ready(Waited::Failed),
            Receipt::At(place) if self.all.covers(place) => Poll::Ready(Waited::Durable),
            Receipt::At(_) if self.late => Poll::Ready(Waited::Failed),
            Receipt::At(place) => {
                let mut wakers = self.all.wakers.borrow_mut();
                let waker = wakers.entry((place, self.number)).or_insert_with(|| cx.waker().clone());
                waker.clone_from(cx.waker());
                Poll::Pending
            }
        }
    }

    /// Waits for this, too.
    pub fn join(&mut self, until: Receipt) {
        self.forget();
        self.until = self.until.max(until);
    }

    /// When to call [`Wait::tick`], on the monotonic clock.
    pub fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// Ends the wait if it took too long.
    pub fn tick(&mut self, now_ns: u64) {
        if now_ns >= self.due_ns && !self.late {
            self.late = true;
            if let Some(waker) = self.forget() {
                waker.wake();
            }
        }
    }

    fn forget(&mut self) -> Option<Waker> {
        let Receipt::At(place) = self.until else { return None };
        self.all.wakers.borrow_mut().remove(&(place, self.number))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        drop(self.forget());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl std::task::Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn rung(bell: &Bell) -> usize {
        bell.0.load(Ordering::Relaxed)
    }

    #[test]
    fn t1_those_wake_whose_record_is_durable_and_no_others() {
        let (bell, all) = (Arc::new(Bell::default()), Rc::new(Waiting::default()));
        let waker = Waker::from(bell.clone());
        let cx = &mut Context::from_waker(&waker);
        let mut waits: Vec<Wait> = [4, 5, 6].map(|place| all.begin(Receipt::At(place))).into();
        assert!(waits.iter_mut().all(|wait| wait.poll(cx).is_pending()));
        all.durable(6);
        assert_eq!(rung(&bell), 2);
        let ready: Vec<bool> = waits.iter_mut().map(|wait| wait.poll(cx).is_ready()).collect();
        assert_eq!(ready, [true, true, false]);
        drop(waits);
        assert!(all.is_empty(), "who is gone waits no more");
    }

    #[test]
    fn t4_a_wait_ends_at_its_deadline_and_what_was_not_taken_is_not_waited_for() {
        let (bell, all) = (Arc::new(Bell::default()), Rc::new(Waiting::default()));
        let waker = Waker::from(bell.clone());
        let cx = &mut Context::from_waker(&waker);
        assert_eq!(all.begin(Receipt::Never).poll(cx), Poll::Ready(Waited::Failed));
        assert_eq!(all.begin(Receipt::Counted).poll(cx), Poll::Ready(Waited::Durable));
        let mut wait = all.begin(Receipt::At(0));
        assert!(wait.poll(cx).is_pending());
        wait.tick(wait.due_ns() - 1);
        assert!(wait.poll(cx).is_pending());
        wait.tick(wait.due_ns());
        assert_eq!((rung(&bell), wait.poll(cx)), (1, Poll::Ready(Waited::Failed)));
        let mut joined = all.begin(Receipt::At(0));
        joined.join(Receipt::At(7));
        all.durable(7);
        assert!(joined.poll(cx).is_pending(), "it waits for the later one");
    }
}
