//! A log that is not what a position promised: stop, or go on where it does and say what was lost.

use super::*;

impl Part {
    /// Goes on where the log does: what is lost by that, if it was not said yet.
    pub(super) fn pass_over(&mut self) -> Option<Loss> {
        let (earliest, loss) = self.next_gap.take()?;
        self.position = earliest;
        self.last_broker_time = None;
        Some(loss)
    }
}

impl Core {
    pub(super) fn offset_gap(
        &mut self,
        start: u64,
        source: TopicPartition,
        wanted: i64,
        kind: &GapKind,
        at: Moment,
        out: &mut Vec<Action>,
    ) {
        if !self.accepting() || start != self.start {
            return;
        }
        let Some(part) = self.parts.get_mut(&source).filter(|p| !p.gapped) else { return };
        let (earliest, latest, detail) = match kind {
            GapKind::OutOfRange { earliest, latest } if wanted < *earliest => {
                (*earliest, *latest, format!("the broker has deleted everything before offset {earliest}"))
            }
            GapKind::OutOfRange { earliest, latest } => (
                *earliest,
                *latest,
                format!("the log ends at offset {latest}: the topic was deleted and made again, or cut off"),
            ),
            GapKind::Replaced { found, earliest, latest } => (
                *earliest,
                *latest,
                format!(
                    "the record before it is another one now{}: the topic was deleted and made again",
                    found.map_or_else(String::new, |t| format!(" (of {t})"))
                ),
            ),
        };
        if self.config.on_offset_gap == OnOffsetGap::Stop {
            self.fail(AggregatorError::OffsetGap { partition: source, wanted, detail }, out);
            return;
        }
        // A log that was made anew is read from its beginning; it is not known how much of the former one was not.
        let loss = Loss {
            partition: source,
            from: wanted,
            to: earliest.max(wanted),
            detail: format!(
                "{detail} (offsets {earliest} to {latest} were there); reading went on at offset {earliest}"
            ),
        };
        part.gapped = true;
        part.next_gap = Some((earliest, loss));
        // What was read and is not stored comes first: the log may go on just where SQL stands, and an advance to there
        // would pass the fence a second time if its outcome were unknown.
        if part.position == part.committed {
            self.losses.extend(part.pass_over());
        }
        self.dirty_since_us.get_or_insert(at.mono_us);
    }
}
