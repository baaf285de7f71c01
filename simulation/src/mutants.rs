//! Mistakes that systems like this one have had, made again on purpose: the simulation must find each.

use async_trait::async_trait;
use fleetscore_schemas::delta;
use fleetscore_store::forward::Forward;
use fleetscore_store::{Advance, Checkpoint, Heartbeat, Loss, Outcome, Progress, Result, Store};
use std::sync::Arc;

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mutant {
    /// A checkpoint whose outcome is not known is done again as if it had not happened: positions are not compared.
    DoubleCount,
    /// Epochs are not compared: who was taken over goes on writing.
    NoFence,
    /// Positions are stored first, the data in a second transaction, as a consumer does that commits its offsets by itself.
    OffsetsAhead,
    /// The data are stored first, the positions in a second transaction.
    DataAhead,
    /// What was read is dropped now and then and called lost, though the log has it.
    Excuses,
    /// Nothing bounds the memory between checkpoints.
    EndlessMemory,
    /// Nothing bounds the dead letters that are kept one by one.
    EndlessLetters,
}

/// A store with a mistake.
#[derive(Debug)]
pub struct Mistaken {
    /// The good one.
    pub inner: Arc<dyn Store>,
    /// What is wrong.
    pub mutant: Mutant,
    /// Decides which second transactions do not happen.
    pub dice: std::sync::Mutex<fastrand::Rng>,
}

impl Mistaken {
    fn second_is_lost(&self) -> bool {
        self.dice.lock().unwrap_or_else(std::sync::PoisonError::into_inner).u8(..16) == 0
    }

    /// The checkpoint as a store would see it that does not compare positions, or epochs.
    fn unfenced(&self, checkpoint: &Checkpoint, progress: &Progress) -> Checkpoint {
        let mut checkpoint = checkpoint.clone();
        for advance in &mut checkpoint.advances {
            let row = progress.rows.iter().find(|r| r.partition == advance.partition);
            let Some(row) = row else { continue };
            match self.mutant {
                Mutant::DoubleCount if row.epoch == advance.epoch => advance.from = row.next_offset,
                // Of the present owner positions are compared: this is not the mistake above.
                Mutant::NoFence if row.epoch != advance.epoch => {
                    (advance.epoch, advance.from) = (row.epoch, row.next_offset);
                }
                _ => {}
            }
        }
        checkpoint
    }
}

/// A checkpoint whose readings are called lost.
pub(crate) fn excused(checkpoint: &Checkpoint) -> Checkpoint {
    let mut excused = checkpoint.clone();
    excused.deltas = arrow::array::RecordBatch::new_empty(delta::schema());
    excused.dead_letters.clear();
    for Advance { partition, from, to, .. } in &checkpoint.advances {
        let (partition, detail) = (partition.clone(), "an excuse".to_owned());
        excused.losses.push(Loss { partition, from: *from, to: *to, detail });
    }
    excused
}

/// A checkpoint in two: what moves positions, and what counts.
fn in_two(checkpoint: &Checkpoint) -> (Checkpoint, Checkpoint) {
    let (mut positions, mut data) = (checkpoint.clone(), checkpoint.clone());
    positions.deltas = arrow::array::RecordBatch::new_empty(delta::schema());
    positions.dead_letters.clear();
    data.advances.clear();
    data.losses.clear();
    (positions, data)
}

#[async_trait]
impl Forward for Mistaken {
    fn inner(&self) -> &dyn Store {
        &*self.inner
    }

    async fn heartbeat(&self, source: &str, owner: &str, beats: &[Heartbeat]) -> Result<Outcome> {
        if self.mutant != Mutant::NoFence {
            return self.inner.heartbeat(source, owner, beats).await;
        }
        let progress = self.inner.progress().await?;
        let mut beats = beats.to_vec();
        for beat in &mut beats {
            if let Some(row) = progress.rows.iter().find(|r| r.partition == beat.partition) {
                beat.epoch = row.epoch;
            }
        }
        self.inner.heartbeat(source, owner, &beats).await
    }

    async fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<Outcome> {
        match self.mutant {
            Mutant::DoubleCount | Mutant::NoFence => {
                let progress = self.inner.progress().await?;
                self.inner.checkpoint(&self.unfenced(checkpoint, &progress)).await
            }
            Mutant::OffsetsAhead => {
                let (positions, data) = in_two(checkpoint);
                let outcome = self.inner.checkpoint(&positions).await?;
                if outcome == Outcome::Done && !self.second_is_lost() {
                    let _ = self.inner.checkpoint(&data).await?; // without positions nothing fences it
                }
                Ok(outcome)
            }
            Mutant::DataAhead => {
                let (positions, data) = in_two(checkpoint);
                let _ = self.inner.checkpoint(&data).await?; // without positions nothing fences it
                if self.second_is_lost() {
                    return Ok(Outcome::Fenced);
                }
                self.inner.checkpoint(&positions).await
            }
            // Made before the store: it is the aggregator that says what is lost, and that keeps within bounds.
            Mutant::Excuses | Mutant::EndlessMemory | Mutant::EndlessLetters => {
                self.inner.checkpoint(checkpoint).await
            }
        }
    }
}
