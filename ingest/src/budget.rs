//! Back-pressure by bytes: what was read from the broker and decoded from that, and not yet let go of.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a message costs besides its payload until it is decoded: its share of the index columns, and of a batch.
pub(crate) const MESSAGE_OVERHEAD_BYTES: usize = 64;

/// Bytes in flight between the broker and the store.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Messages, and what was decoded from them.
    used: AtomicUsize,
    /// The latter alone.
    decoded: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), decoded: AtomicUsize::new(0), limit })
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Whether to decode one more batch: not while what was decoded before takes the whole limit. Messages of a few
    /// bytes per bad record become fifty times as large, and what was read but not decoded yet has its own limit.
    /// With nothing decoded out, any batch may be, however large.
    pub(crate) fn may_decode(&self) -> bool {
        self.decoded.load(Ordering::Acquire) < self.limit.max(1)
    }

    /// How many messages may be read now, of `average` bytes each: 0 while the budget is spent, else at least 1, so
    /// that a message larger than the whole budget still gets through, alone.
    pub(crate) fn messages(&self, average: usize, at_most: usize) -> usize {
        match self.limit.saturating_sub(self.used()) {
            0 => 0,
            free => (free / average.max(1)).clamp(1, at_most),
        }
    }

    /// Takes no bytes yet; the permit grows.
    pub(crate) fn permit(self: &Arc<Self>) -> Permit {
        Permit { budget: Arc::clone(self), bytes: 0, decoded: 0 }
    }
}

/// Bytes taken from a budget; given back on drop.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Arc<Budget>,
    bytes: usize,
    decoded: usize,
}

impl Permit {
    pub(crate) fn grow(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.budget.used.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Grows by what was decoded from the messages.
    pub(crate) fn grow_decoded(&mut self, bytes: usize) {
        self.decoded += bytes;
        self.budget.decoded.fetch_add(bytes, Ordering::AcqRel);
        self.grow(bytes);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.decoded.fetch_sub(self.decoded, Ordering::AcqRel);
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spent_budget_reads_nothing_until_a_permit_is_dropped() {
        let budget = Budget::new(1000);
        assert_eq!(budget.messages(10, 4096), 100);
        assert_eq!(budget.messages(10, 7), 7);
        let mut first = budget.permit();
        first.grow(400);
        let mut second = budget.permit();
        second.grow(300);
        second.grow(300);
        assert_eq!((budget.used(), budget.messages(10, 4096)), (1000, 0));
        drop(first);
        assert_eq!((budget.used(), budget.messages(100, 4096)), (600, 4));
        assert_eq!(budget.messages(1_000_000, 4096), 1, "one large message gets through");
        drop(second);
        assert_eq!(budget.used(), 0);
    }
}
