//! What an import may have in memory at once, beside the models themselves.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Bytes of files that were read and are not yet taken apart.
const HELD: u64 = 128 << 20;
/// Bytes that taking files apart may need, each by the bound of its format.
const WORK: u64 = 512 << 20;
/// Budgets are counted in units of so many bytes.
const UNIT: u64 = 4096;

/// Two budgets, so that a file that was read never waits for one that is to be read. What is larger than a whole budget
/// takes it all, and so is alone.
pub(super) struct Budget {
    held: Semaphore,
    work: Semaphore,
    many: Semaphore,
}

impl Default for Budget {
    fn default() -> Self {
        let of = |bytes: u64| Semaphore::new((bytes / UNIT) as usize);
        Self { held: of(HELD), work: of(WORK), many: Semaphore::new(1) }
    }
}

impl Budget {
    /// Waits until a file of this size may be read.
    pub(super) async fn held(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        self.held.acquire_many(units(bytes, HELD)).await.ok() // never closed
    }

    /// Waits until a file whose reading takes so much may be taken apart.
    pub(super) async fn work(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        self.work.acquire_many(units(bytes as u64, WORK)).await.ok() // never closed
    }

    /// Waits until no other file of many models is read, if this is one.
    pub(super) async fn many(&self, many: bool) -> Option<SemaphorePermit<'_>> {
        if many { self.many.acquire().await.ok() } else { None } // never closed
    }
}

fn units(bytes: u64, of: u64) -> u32 {
    (bytes.min(of).div_ceil(UNIT)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn what_is_read_at_once_stays_within_the_budget() {
        let budget = Budget::default();
        let (a, b) = (budget.held(HELD / 2).await, budget.held(HELD / 4).await);
        assert!(budget.held(HELD / 2).now_or_never().is_none());
        assert!(budget.held(HELD / 4).now_or_never().flatten().is_some());
        drop(a);
        assert!(budget.held(HELD / 2).now_or_never().flatten().is_some());
        // Larger than all of it: alone.
        assert!(budget.held(10 * HELD).now_or_never().is_none());
        drop(b);
        let all = budget.held(10 * HELD).now_or_never().flatten();
        assert!(all.is_some() && budget.held(1).now_or_never().is_none());
        // What was read is taken apart all the same, and one that takes nothing waits for nobody.
        assert!(budget.work(usize::MAX).now_or_never().flatten().is_some());
        assert!(budget.held(0).now_or_never().flatten().is_some());
    }
}
