//! One stream of windows for two readers.

use crate::plan::Windows;
use arrow::array::RecordBatch;
use fleetscore_store::StoreError;
use futures::StreamExt;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Both readers get every batch (whose columns they share); one of them, whichever meets it, gets the error. What one has
/// read and the other has not is kept, so they should go on side by side.
pub(super) fn tee(windows: Windows) -> (Windows, Windows) {
    let wakers = Arc::new(Both::default());
    let source = Source { windows, kept: [VecDeque::new(), VecDeque::new()], ended: false };
    let tee = Arc::new(Tee { source: Mutex::new(source), wakers });
    let side = |i: usize| {
        let tee = tee.clone();
        futures::stream::poll_fn(move |cx| tee.poll(i, cx)).boxed()
    };
    (side(0), side(1))
}

struct Tee {
    source: Mutex<Source>,
    wakers: Arc<Both>,
}

struct Source {
    windows: Windows,
    /// Batches for each reader that the other had first.
    kept: [VecDeque<RecordBatch>; 2],
    ended: bool,
}

/// Wakes both readers: whichever polled last, both may be waiting.
#[derive(Default)]
struct Both(Mutex<[Option<Waker>; 2]>);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        let wakers = std::mem::take(&mut *locked(&self.0));
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Tee {
    fn poll(&self, side: usize, cx: &mut Context<'_>) -> Poll<Option<Result<RecordBatch, StoreError>>> {
        let mut source = locked(&self.source);
        if let Some(batch) = source.kept[side].pop_front() {
            return Poll::Ready(Some(Ok(batch)));
        }
        if source.ended {
            return Poll::Ready(None);
        }
        locked(&self.wakers.0)[side] = Some(cx.waker().clone());
        let waker = Waker::from(self.wakers.clone());
        let polled = Pin::new(&mut source.windows).poll_next_unpin(&mut Context::from_waker(&waker));
        match &polled {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(batch))) => source.kept[1 - side].push_back(batch.clone()),
            Poll::Ready(Some(Err(_)) | None) => source.ended = true,
        }
        drop(source);
        waker.wake(); // the other one may wait for this
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::UInt32Array;
    use arrow::datatypes::{DataType, Field, Schema};
    use futures::TryStreamExt;

    fn batch(n: u32) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("n", DataType::UInt32, false)]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(UInt32Array::from(vec![n]))]).unwrap()
    }

    #[tokio::test]
    async fn both_get_everything_however_they_take_turns() {
        let (send, receive) = tokio::sync::mpsc::channel(1);
        let source =
            futures::stream::unfold(receive, |mut r| async move { Some((Ok(r.recv().await?), r)) }).boxed();
        let (a, b) = tee(source);
        let read = |s: Windows| tokio::spawn(s.try_collect::<Vec<_>>());
        let (a, b) = (read(a), read(b));
        for n in 0..50 {
            send.send(batch(n)).await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(send);
        let wanted: Vec<RecordBatch> = (0..50).map(batch).collect();
        let (a, b) = (a.await.unwrap().unwrap(), b.await.unwrap().unwrap());
        assert!(a == wanted && b == wanted);
    }

    #[tokio::test]
    async fn an_error_reaches_one_of_them_and_ends_both() {
        let broken = StoreError::Unavailable { message: "gone".into() };
        let (mut a, mut b) = tee(futures::stream::iter([Ok(batch(1)), Err(broken)]).boxed());
        assert!(matches!(a.next().await, Some(Ok(_))));
        assert!(matches!(b.next().await, Some(Ok(_))));
        assert!(matches!(b.next().await, Some(Err(_))));
        assert!(a.next().await.is_none() && b.next().await.is_none());
    }
}
