//! Where the time of a task goes: parts that run at the same time, each measured by itself.

use arrow::array::RecordBatch;
use fleetscore_store::Phases;
use futures::{Stream, StreamExt};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

/// What a task's parts took so far.
#[derive(Debug, Default)]
pub struct Meter {
    open: AtomicU64,
    read: AtomicU64,
    score: AtomicU64,
    write: Mutex<Writing>,
}

/// Storing goes on from the first prediction on, but for the waits for the next ones.
#[derive(Debug, Default)]
struct Writing {
    began: Option<Instant>,
    waiting_since: Option<Instant>,
    waited: Duration,
}

impl Writing {
    /// A prediction was asked for.
    fn asked(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
    }

    /// It came.
    fn came(&mut self, now: Instant) {
        let since = self.waiting_since.take();
        match self.began {
            None => self.began = Some(now),
            Some(_) => self.waited += since.map_or(Duration::ZERO, |since| now.duration_since(since)),
        }
    }

    fn took(&self, now: Instant) -> Duration {
        self.began.map_or(Duration::ZERO, |began| now.duration_since(began).saturating_sub(self.waited))
    }
}

fn add(to: &AtomicU64, time: Duration) {
    to.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
}

impl Meter {
    /// The models were opened.
    pub(crate) fn opened(&self, time: Duration) {
        add(&self.open, time);
    }

    /// Windows were waited for.
    pub(crate) fn read(&self, time: Duration) {
        add(&self.read, time);
    }

    /// A core has scored.
    pub(crate) fn scored(&self, time: Duration) {
        add(&self.score, time);
    }

    /// The same stream; between its batches somebody stores them.
    pub(crate) fn written<'a, E>(
        &'a self,
        mut stream: impl Stream<Item = Result<RecordBatch, E>> + Unpin + Send + 'a,
    ) -> impl Stream<Item = Result<RecordBatch, E>> + Send + 'a {
        futures::stream::poll_fn(move |cx| {
            self.writing().asked(Instant::now());
            let polled = stream.poll_next_unpin(cx);
            if let Poll::Ready(Some(_) | None) = &polled {
                self.writing().came(Instant::now());
            }
            polled
        })
    }

    fn writing(&self) -> std::sync::MutexGuard<'_, Writing> {
        self.write.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it all came to.
    pub(crate) fn phases(&self) -> Phases {
        let of = |time: &AtomicU64| i64::try_from(time.load(Relaxed)).unwrap_or(i64::MAX);
        let write = self.writing().took(Instant::now());
        Phases {
            open_us: of(&self.open),
            read_us: of(&self.read),
            score_us: of(&self.score),
            write_us: i64::try_from(write.as_micros()).unwrap_or(i64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_is_what_lies_between_predictions() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut w = Writing::default();
        assert_eq!(w.took(at(50)), Duration::ZERO, "nothing came yet");
        w.asked(at(0));
        w.came(at(100)); // the wait for the first one is reading and scoring
        w.asked(at(130)); // 30 of writing
        w.asked(at(140)); // polled again while it waits
        w.came(at(230)); // 100 of waiting
        w.asked(at(250)); // 20 of writing
        w.came(at(250));
        assert_eq!(w.took(at(260)), Duration::from_millis(60));
    }
}
