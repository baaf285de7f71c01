//! Dead letters since the last checkpoint, bounded: so many a minute are kept one by one, and what is beyond is counted.

use fleetscore_schemas::codes::DeadLetterCode;
use fleetscore_schemas::reading::{ReadingBatch, Span, TopicPartition};
use fleetscore_schemas::time::Timestamp;
use fleetscore_store::{DeadLetter, Notice};
use std::collections::BTreeMap;

/// Fixed part of what a dead letter takes in memory.
const OVERHEAD: usize = 160;
/// A record of more bytes is not kept with its dead letter.
const KEPT_BYTES: usize = 1 << 20;
const MINUTE_US: i64 = 60_000_000;

/// What is kept of the records of one minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Dead letters.
    pub(crate) letters: u64,
    /// Their bytes.
    pub(crate) bytes: usize,
}

/// One record that did not count, or several of one message.
pub(crate) struct Refused<'a> {
    pub(crate) span: Span,
    pub(crate) code: DeadLetterCode,
    pub(crate) detail: &'a str,
    /// These of it did not count; none named: nothing of it did.
    pub(crate) sensors: &'a [String],
    /// How many records it stands for.
    pub(crate) count: u64,
}

/// A number of dead letters. For a minute's bounds these are the ones kept one by one, and their bytes; for a flood all of
/// them, and how many of these are not kept one by one.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    letters: u64,
    counted: u64,
    bytes: usize,
}

/// What was counted, and the parts of it that are in memory and in the checkpoint under way: taken back if they are never
/// stored, as they are read again.
#[derive(Debug, Clone, Default)]
struct Ledger {
    all: Count,
    in_memory: Count,
    under_way: Count,
}

impl Ledger {
    fn add(&mut self, Count { letters, counted, bytes }: Count) {
        for sum in [&mut self.all, &mut self.in_memory] {
            sum.letters += letters;
            sum.counted += counted;
            sum.bytes += bytes;
        }
    }

    fn taken(&mut self) {
        self.under_way = std::mem::take(&mut self.in_memory);
    }

    fn stored(&mut self) {
        self.under_way = Count::default();
    }

    fn forget(&mut self) {
        for part in [std::mem::take(&mut self.in_memory), std::mem::take(&mut self.under_way)] {
            self.all.letters = self.all.letters.saturating_sub(part.letters);
            self.all.counted = self.all.counted.saturating_sub(part.counted);
            self.all.bytes = self.all.bytes.saturating_sub(part.bytes);
        }
    }
}

/// A stretch of minutes in each of which there was more than is kept.
#[derive(Debug, Clone)]
struct Flood {
    since: Timestamp,
    /// The newest minute with more than is kept.
    minute: i64,
    /// Since it began.
    ledger: Ledger,
}

/// Dead letters, one by one up to a bound; beyond it one for each partition and code stands for the others: counted, and
/// readable from Kafka by its range of offsets.
#[derive(Debug)]
pub(crate) struct Letters {
    bounds: Bounds,
    rows: Vec<DeadLetter>,
    overflow: BTreeMap<(TopicPartition, DeadLetterCode), DeadLetter>,
    bytes: usize,
    /// The present minute, and what is kept of it, which the bounds are for.
    minute: i64,
    now: Timestamp,
    kept: Ledger,
    flood: Option<Flood>,
    notices: Vec<Notice>,
    notices_under_way: Vec<Notice>,
}

impl Letters {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            rows: Vec::new(),
            overflow: BTreeMap::new(),
            bytes: 0,
            minute: i64::MIN,
            now: Timestamp(0),
            kept: Ledger::default(),
            flood: None,
            notices: Vec::new(),
            notices_under_way: Vec::new(),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is something to tell that no checkpoint carries yet.
    pub(crate) fn has_news(&self) -> bool {
        !self.notices.is_empty()
    }

    /// A flood that goes on, in words.
    pub(crate) fn flood(&self) -> Option<String> {
        let Flood { since, ledger: Ledger { all: Count { letters, counted, .. }, .. }, .. } =
            self.flood.as_ref()?;
        Some(format!(
            "a flood of dead letters since {since}: {letters}, of which {counted} are not kept one by one"
        ))
    }

    /// Lets time pass: a new minute has new bounds, and a flood is over after a whole minute within them.
    pub(crate) fn at(&mut self, mono_us: i64, now: Timestamp) {
        self.now = now;
        let minute = mono_us.div_euclid(MINUTE_US);
        if minute != self.minute {
            self.minute = minute;
            self.kept = Ledger::default();
        }
        let over = self.flood.take_if(|f| minute > f.minute + 1);
        if let Some(Flood { since, ledger, .. }) = over {
            let Count { letters, counted, .. } = ledger.all;
            let detail = format!(
                "over since {now}: {letters} dead letters since {since}, of which {counted} are not kept one by one but \
                 as ranges of offsets (`last_offset` in `dead_letters`)"
            );
            tracing::warn!("the flood of dead letters is {detail}");
            self.notices.push(Notice { kind: "dead_letter_flood_over", detail });
        }
    }

    /// Adds what was refused of a batch.
    pub(crate) fn push(&mut self, batch: &ReadingBatch, refused: &Refused<'_>) {
        if let Some(flood) = &mut self.flood {
            flood.ledger.add(Count { letters: refused.count, ..Count::default() });
        }
        match self.one_by_one(batch, refused) {
            Some(letter) => self.rows.push(letter),
            None => self.count(batch, refused),
        }
    }

    /// The dead letter of a single record, if there is room for it.
    fn one_by_one(&mut self, batch: &ReadingBatch, refused: &Refused<'_>) -> Option<DeadLetter> {
        let Refused { span, code, detail, sensors, count } = *refused;
        if count != 1 || self.kept.all.letters >= self.bounds.letters {
            return None;
        }
        let payload = batch.messages.bytes(span);
        let named: usize = sensors.iter().map(|s| s.len() + size_of::<String>()).sum();
        let (kept, size) = match payload.len() + named {
            whole if whole <= KEPT_BYTES => (true, OVERHEAD + detail.len() + whole),
            _ => (false, OVERHEAD + 2 * detail.len()),
        };
        if self.kept.all.bytes.saturating_add(size) > self.bounds.bytes {
            return None;
        }
        self.kept.add(Count { letters: 1, bytes: size, ..Count::default() });
        self.bytes += size;
        let detail = match kept {
            true => detail.to_owned(),
            false => format!("{detail} (its {} bytes are not kept: read them from Kafka)", payload.len()),
        };
        Some(DeadLetter {
            partition: batch.source.clone(),
            offset: batch.messages.offsets[span.message as usize],
            position: span.position,
            code,
            detail,
            payload: kept.then(|| payload.to_vec()),
            broker_time: batch.messages.broker_times[span.message as usize],
            count: 1,
            last_offset: None,
            sensors: if kept { sensors.to_vec() } else { Vec::new() },
        })
    }

    /// Counts what there is no room for.
    fn count(&mut self, batch: &ReadingBatch, refused: &Refused<'_>) {
        let message = refused.span.message as usize;
        let offset = batch.messages.offsets[message];
        let row = self.overflow.entry((batch.source.clone(), refused.code)).or_insert_with(|| {
            self.bytes += OVERHEAD;
            DeadLetter {
                partition: batch.source.clone(),
                offset,
                position: -1,
                code: refused.code,
                detail: "more than dead_letters_per_minute or dead_letter_bytes_per_minute, or than 65,536 in a batch: \
                         counted; the offsets from `kafka_offset` to `last_offset` can be read from Kafka"
                    .into(),
                payload: None,
                broker_time: batch.messages.broker_times[message],
                count: 0,
                last_offset: Some(offset),
                sensors: Vec::new(),
            }
        });
        row.count = row.count.saturating_add_unsigned(refused.count);
        row.offset = row.offset.min(offset);
        row.last_offset = row.last_offset.max(Some(offset));
        let Bounds { letters, bytes } = self.bounds;
        let (minute, now) = (self.minute, self.now);
        let flood = self.flood.get_or_insert_with(|| {
            let detail = format!(
                "began at {now} with {} of {}: more than {letters} dead letters or {bytes} bytes of them in a minute, or \
                 than 65,536 in a batch of messages; \
                 what is beyond is counted, one row for each partition and code in a checkpoint",
                refused.code, batch.source
            );
            tracing::warn!("a flood of dead letters {detail}");
            self.notices.push(Notice { kind: "dead_letter_flood", detail });
            let mut ledger = Ledger::default();
            ledger.add(Count { letters: refused.count, ..Count::default() });
            Flood { since: now, minute, ledger }
        });
        flood.minute = minute;
        flood.ledger.add(Count { counted: refused.count, ..Count::default() });
    }

    fn ledgers(&mut self) -> impl Iterator<Item = &mut Ledger> {
        std::iter::once(&mut self.kept).chain(self.flood.as_mut().map(|f| &mut f.ledger))
    }

    /// Takes all out for a checkpoint: letters ordered by partition, offset and position.
    pub(crate) fn take(&mut self) -> (Vec<DeadLetter>, Vec<Notice>) {
        self.bytes = 0;
        self.ledgers().for_each(Ledger::taken);
        let mut all = std::mem::take(&mut self.rows);
        all.extend(std::mem::take(&mut self.overflow).into_values());
        all.sort_by(|a, b| (&a.partition, a.offset, a.position).cmp(&(&b.partition, b.offset, b.position)));
        self.notices_under_way = std::mem::take(&mut self.notices);
        (all, self.notices_under_way.clone())
    }

    /// What was taken out last is stored.
    pub(crate) fn stored(&mut self) {
        self.ledgers().for_each(Ledger::stored);
        self.notices_under_way.clear();
    }

    /// Drops all: it is read again. What was taken out last and is not stored counts as dropped too.
    pub(crate) fn forget(&mut self) {
        self.rows.clear();
        self.overflow.clear();
        self.bytes = 0;
        self.ledgers().for_each(Ledger::forget);
        let mut notices = std::mem::take(&mut self.notices_under_way);
        notices.append(&mut self.notices);
        self.notices = notices;
    }
}

#[cfg(test)]
#[path = "letters_tests.rs"]
mod tests;
