//! The frame of an Arrow IPC file with one record batch: footer, messages, buffers.
//!
//! arrow's own decoder trusts lengths and offsets that a file gives (it panics where they do not fit), so this one walks
//! through the buffers itself, which is little work for the few types that a pack has. Every length is checked against
//! the bytes that are there before it is used, and nothing is allocated in proportion to a length that a file claims.

use crate::columns::Column;
use crate::error::{PackError, damaged};
use arrow::array::{RecordBatch, StringArray};
use arrow::buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::ArrowNativeType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use arrow_ipc::{
    Block, Footer, Message, MetadataVersion, RecordBatch as Batch, root_as_footer_with_opts,
    root_as_message_with_opts,
};
use bytes::Bytes;
use std::ops::Range;

const MAGIC: &[u8; 6] = b"ARROW1";
/// Length of the footer and [`MAGIC`], at the very end.
const TRAILER: usize = 10;
/// Continuation marker and length, before each message.
const PREFIX: usize = 8;
/// Most dictionaries in a file: those of devices and sensors.
const DICTIONARIES: usize = 2;
/// Alignment of buffers in the files we write.
const ALIGNMENT: usize = 64;

/// Bounds on the metadata of a file; ours has about 40 tables in 8 levels.
fn limits() -> flatbuffers::VerifierOptions {
    flatbuffers::VerifierOptions {
        max_depth: 16,
        max_tables: 512,
        max_apparent_size: 1 << 20,
        ..Default::default()
    }
}

/// The bytes of a file with this one batch.
pub(crate) fn write(batch: &RecordBatch) -> Result<Bytes, PackError> {
    let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)?;
    let room = batch.get_array_memory_size() + (64 << 10);
    let mut writer = FileWriter::try_new_with_options(Vec::with_capacity(room), &batch.schema(), options)?;
    writer.write(batch)?;
    Ok(writer.into_inner()?.into())
}

/// As a buffer whose numbers are aligned: without copying, unless the bytes themselves lie at an odd address.
pub(crate) fn aligned(bytes: Bytes) -> Buffer {
    if (bytes.as_ptr() as usize).is_multiple_of(align_of::<f64>()) {
        return bytes.into();
    }
    let mut copy = MutableBuffer::new(bytes.len()); // aligned to a cache line
    copy.extend_from_slice(&bytes);
    copy.into()
}

/// A file whose frame is good.
pub(crate) struct File<'a> {
    bytes: &'a Buffer,
    footer: Footer<'a>,
}

impl<'a> File<'a> {
    pub(crate) fn open(bytes: &'a Buffer) -> Result<Self, PackError> {
        let all = bytes.as_slice();
        if !all.starts_with(MAGIC) || !all.ends_with(MAGIC) || all.len() < 8 + TRAILER {
            return damaged("it does not begin and end as an Arrow file does");
        }
        let trailer = all.len() - TRAILER;
        let length: [u8; 4] = all[trailer..trailer + 4].try_into().expect("four bytes");
        let start = usize::try_from(i32::from_le_bytes(length)).ok().and_then(|n| trailer.checked_sub(n));
        let Some(start) = start else {
            return damaged("the length of its footer is more than there is");
        };
        let footer = root_as_footer_with_opts(&limits(), &all[start..trailer])
            .or_else(|e| damaged(format!("its footer: {e}")))?;
        if footer.version() != MetadataVersion::V5 {
            return damaged("its metadata has another version than 5");
        }
        if !footer.schema().is_some_and(|s| s.endianness().equals_to_target_endianness()) {
            return damaged("it has no schema, or numbers of the other byte order");
        }
        Ok(Self { bytes, footer })
    }

    /// The value of a key of the schema's metadata.
    pub(crate) fn metadata(&self, key: &str) -> Option<&'a str> {
        let pairs = self.footer.schema()?.custom_metadata()?;
        pairs.iter().find(|p| p.key() == Some(key)).and_then(|p| p.value())
    }

    /// Which of these columns the file has, in the file's order, which must be theirs.
    ///
    /// # Errors
    /// Where one is missing that may not be, is of another type, or there is one more.
    pub(crate) fn columns(&self, expected: &[Column]) -> Result<Vec<Found>, PackError> {
        let fields = self.footer.schema().and_then(|s| s.fields());
        let mut fields = fields.into_iter().flatten().peekable();
        let mut found = Vec::with_capacity(expected.len());
        for column in expected {
            match fields.next_if(|f| f.name() == Some(column.name)) {
                Some(field) if column.fits(&field) => {
                    let dictionary = field.dictionary().map(|d| d.id());
                    found.push(Found { name: column.name, dictionary });
                }
                None if column.optional => {}
                Some(_) => return damaged(format!("column `{}` is of another type", column.name)),
                None => return damaged(format!("column `{}` is missing", column.name)),
            }
        }
        match fields.next() {
            Some(f) => damaged(format!("there is a column `{}`", f.name().unwrap_or_default())),
            None => Ok(found),
        }
    }

    /// Its one record batch.
    pub(crate) fn batch(&self) -> Result<Walk<'a>, PackError> {
        let mut blocks = self.footer.recordBatches().into_iter().flatten();
        let (Some(block), None) = (blocks.next(), blocks.next()) else {
            return damaged("it has not exactly one record batch");
        };
        let (message, body) = self.message(block)?;
        let Some(batch) = message.header_as_record_batch() else {
            return damaged("a message that should be a record batch is none");
        };
        Walk::new(batch, self.bytes.slice_with_length(body.start, body.len()))
    }

    /// The words of a dictionary; none where the file has no such dictionary.
    pub(crate) fn words(&self, id: i64) -> Result<StringArray, PackError> {
        let mut words = None;
        let blocks = self.footer.dictionaries();
        if blocks.is_some_and(|blocks| blocks.len() > DICTIONARIES) {
            return damaged("it has more dictionaries than columns for them");
        }
        for block in blocks.into_iter().flatten() {
            let (message, body) = self.message(block)?;
            let Some(dictionary) = message.header_as_dictionary_batch() else {
                return damaged("a message that should be a dictionary is none");
            };
            if dictionary.id() != id {
                continue;
            }
            let (Some(batch), false, None) = (dictionary.data(), dictionary.isDelta(), &words) else {
                return damaged("a dictionary comes in several pieces");
            };
            let mut walk = Walk::new(batch, self.bytes.slice_with_length(body.start, body.len()))?;
            words = Some(walk.texts("dictionary", walk.rows, false)?);
            walk.end()?;
        }
        Ok(words.unwrap_or_else(|| StringArray::new_null(0)))
    }

    /// A message, and where its body lies.
    fn message(&self, block: &Block) -> Result<(Message<'a>, Range<usize>), PackError> {
        let all = self.bytes.as_slice();
        let inside = || {
            let start = usize::try_from(block.offset()).ok()?;
            let body = start.checked_add(usize::try_from(block.metaDataLength()).ok()?)?;
            let end = body.checked_add(usize::try_from(block.bodyLength()).ok()?)?;
            let head = all.get(start..body)?;
            all.get(body..end)?;
            let (prefix, rest) = head.split_at_checked(PREFIX)?;
            let length = i32::from_le_bytes(prefix[4..].try_into().ok()?);
            let metadata = rest.get(..usize::try_from(length).ok()?)?;
            (prefix[..4] == [0xff; 4]).then_some((metadata, body..end))
        };
        let Some((metadata, body)) = inside() else {
            return damaged("a message lies outside of it");
        };
        let message =
            root_as_message_with_opts(&limits(), metadata).or_else(|e| damaged(format!("a message: {e}")))?;
        Ok((message, body))
    }
}

/// A column that a file has.
pub(crate) struct Found {
    pub(crate) name: &'static str,
    pub(crate) dictionary: Option<i64>,
}

/// Walks through the buffers of a batch, column by column.
pub(crate) struct Walk<'a> {
    pub(crate) rows: usize,
    batch: Batch<'a>,
    body: Buffer,
    nodes: usize,
    buffers: usize,
}

/// What a list column says of its items.
pub(crate) struct Lists {
    /// rows + 1, ascending, within `items`.
    pub(crate) offsets: ScalarBuffer<i32>,
    pub(crate) nulls: Option<NullBuffer>,
    pub(crate) items: usize,
}

impl<'a> Walk<'a> {
    fn new(batch: Batch<'a>, body: Buffer) -> Result<Self, PackError> {
        if batch.compression().is_some() || batch.variadicBufferCounts().is_some_and(|v| !v.is_empty()) {
            return damaged("its buffers are compressed");
        }
        // Every column has at least a byte a row, which bounds what a walk can be about.
        let rows = usize::try_from(batch.length()).ok().filter(|rows| *rows <= body.len());
        let Some(rows) = rows else {
            return damaged("it claims more rows than it has bytes");
        };
        Ok(Self { rows, batch, body, nodes: 0, buffers: 0 })
    }

    /// Length and number of nulls of the next array.
    fn node(&mut self, name: &str, nullable: bool) -> Result<(usize, usize), PackError> {
        let node = self.batch.nodes().filter(|n| self.nodes < n.len()).map(|n| n.get(self.nodes));
        self.nodes += 1;
        let of = |n: i64| usize::try_from(n).ok();
        match node.and_then(|n| Some((of(n.length())?, of(n.null_count())?))) {
            Some((_, nulls)) if nulls > 0 && !nullable => damaged(format!("`{name}` has a null")),
            Some(found) => Ok(found),
            None => damaged(format!("`{name}` has no length")),
        }
    }

    fn sized(&mut self, name: &str, nullable: bool, rows: usize) -> Result<usize, PackError> {
        match self.node(name, nullable)? {
            (found, nulls) if found == rows => Ok(nulls),
            (found, _) => damaged(format!("`{name}` has {found} values, and {rows} are wanted")),
        }
    }

    fn buffer(&mut self, name: &str) -> Result<Buffer, PackError> {
        let buffer = self.batch.buffers().filter(|b| self.buffers < b.len()).map(|b| b.get(self.buffers));
        self.buffers += 1;
        let inside = buffer.and_then(|b| {
            let start = usize::try_from(b.offset()).ok()?;
            let length = usize::try_from(b.length()).ok()?;
            (start.checked_add(length)? <= self.body.len()).then_some((start, length))
        });
        match inside {
            Some((start, length)) => Ok(self.body.slice_with_length(start, length)),
            None => damaged(format!("a buffer of `{name}` lies outside of the file")),
        }
    }

    fn scalars<T: ArrowNativeType>(&mut self, name: &str, len: usize) -> Result<ScalarBuffer<T>, PackError> {
        let buffer = self.buffer(name)?;
        let Some(bytes) = len.checked_mul(size_of::<T>()).filter(|bytes| *bytes <= buffer.len()) else {
            return damaged(format!("`{name}` has {} bytes for {len} values", buffer.len()));
        };
        let buffer = buffer.slice_with_length(0, bytes);
        if !(buffer.as_ptr() as usize).is_multiple_of(align_of::<T>()) {
            return damaged(format!("the numbers of `{name}` are not aligned"));
        }
        Ok(ScalarBuffer::from(buffer))
    }

    fn validity(&mut self, name: &str, len: usize, nulls: usize) -> Result<Option<NullBuffer>, PackError> {
        let buffer = self.buffer(name)?;
        if nulls == 0 {
            return Ok(None);
        }
        if buffer.len() < len.div_ceil(8) {
            return damaged(format!("`{name}` does not say of each value whether it is null"));
        }
        let found = NullBuffer::new(BooleanBuffer::new(buffer, 0, len));
        if found.null_count() != nulls {
            return damaged(format!("`{name}` has {} nulls and says {nulls}", found.null_count()));
        }
        Ok(Some(found))
    }

    /// len + 1 ascending offsets, the last at most `within`.
    fn offsets(&mut self, name: &str, len: usize) -> Result<ScalarBuffer<i32>, PackError> {
        if len == 0 {
            self.buffer(name)?; // may be empty
            return Ok(vec![0].into());
        }
        let offsets: ScalarBuffer<i32> = self.scalars(name, len + 1)?;
        if offsets[0] < 0 || offsets.windows(2).any(|w| w[0] > w[1]) {
            return damaged(format!("the offsets of `{name}` do not ascend"));
        }
        Ok(offsets)
    }

    /// A column of numbers without nulls.
    pub(crate) fn numbers<T: ArrowNativeType>(
        &mut self,
        name: &str,
        rows: usize,
    ) -> Result<ScalarBuffer<T>, PackError> {
        self.sized(name, false, rows)?;
        self.validity(name, rows, 0)?;
        self.scalars(name, rows)
    }

    /// A column of text.
    pub(crate) fn texts(
        &mut self,
        name: &str,
        rows: usize,
        nullable: bool,
    ) -> Result<StringArray, PackError> {
        let nulls = self.sized(name, nullable, rows)?;
        let nulls = self.validity(name, rows, nulls)?;
        let offsets = OffsetBuffer::new(self.offsets(name, rows)?); // ascending: checked there
        let values = self.buffer(name)?;
        StringArray::try_new(offsets, values, nulls).or_else(|e| damaged(format!("`{name}`: {e}")))
    }

    /// A column with `width` numbers in each row, one row after the other.
    pub(crate) fn lists_of(
        &mut self,
        name: &str,
        rows: usize,
        width: usize,
    ) -> Result<ScalarBuffer<f64>, PackError> {
        self.sized(name, false, rows)?;
        self.validity(name, rows, 0)?;
        match rows.checked_mul(width) {
            Some(values) => self.numbers(name, values),
            None => damaged(format!("`{name}` has more values than can be")),
        }
    }

    /// A column of lists of structs; the structs' fields follow, each with `items` values.
    pub(crate) fn lists(&mut self, name: &str, rows: usize, nullable: bool) -> Result<Lists, PackError> {
        let nulls = self.sized(name, nullable, rows)?;
        let nulls = self.validity(name, rows, nulls)?;
        let offsets = self.offsets(name, rows)?;
        let (items, _) = self.node(name, false)?;
        self.validity(name, items, 0)?;
        let last = offsets.last().copied().unwrap_or(0);
        if usize::try_from(last).is_ok_and(|last| last <= items) {
            Ok(Lists { offsets, nulls, items })
        } else {
            damaged(format!("`{name}` has {items} items, and {last} are wanted"))
        }
    }

    /// Checks that nothing is left.
    pub(crate) fn end(&self) -> Result<(), PackError> {
        let left = |found: Option<usize>, walked: usize| found.unwrap_or(0) != walked;
        if left(self.batch.nodes().map(|n| n.len()), self.nodes)
            || left(self.batch.buffers().map(|b| b.len()), self.buffers)
        {
            return damaged("it has more buffers than its columns");
        }
        Ok(())
    }
}

/// The longest of these texts, in bytes.
pub(crate) fn longest(texts: &StringArray) -> usize {
    texts.value_offsets().windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0)
}
