//! A panic is a defect. Where the process can go on, it costs no more than the piece of work that it ended, and it is counted.

use prometheus_client::metrics::counter::Counter;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::LazyLock;
use std::task::Poll;

/// Panics of this process since [`count_panics`].
static PANICS: LazyLock<Counter> = LazyLock::new(Counter::default);

/// A piece of work has no result, because it panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panicked;

/// Counts each panic of this process from now on, whoever catches it.
pub fn count_panics() {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |told| {
        PANICS.inc();
        previous(told);
    }));
}

/// Counts them.
pub fn panics() -> Counter {
    PANICS.clone()
}

/// Does a piece of work that must end nothing else.
///
/// # Errors
/// It panicked.
pub fn contained<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked)
}

/// As [`contained`].
///
/// # Errors
/// It panicked.
pub async fn contained_task<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut work = pin!(work);
    std::future::poll_fn(|cx| match contained(|| work.as_mut().poll(cx)) {
        Ok(polled) => polled.map(Ok),
        Err(panicked) => Poll::Ready(Err(panicked)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn d3_what_panics_ends_nothing_else_and_is_counted() {
        count_panics();
        let before = PANICS.get();
        assert_eq!(contained(|| -> u8 { panic!("as the test wants it") }), Err(Panicked));
        assert_eq!(contained_task(async { panic!("as the test wants it") }).await, Err::<(), _>(Panicked));
        assert_eq!((contained(|| 7), contained_task(tokio::task::yield_now()).await), (Ok(7), Ok(())));
        // Other tests of this process may panic meanwhile.
        assert!(PANICS.get() >= before + 2);
        assert!(!Metrics::default().text().contains("testimony_panics_total 0\n"));
    }
}
