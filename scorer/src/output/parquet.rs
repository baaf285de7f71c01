//! Predictions as Parquet: the columns of [`published_schema`], timestamps in UTC microseconds, plain UTF-8.

use ::parquet::arrow::ArrowWriter;
use ::parquet::basic::Compression;
use ::parquet::errors::Result;
use ::parquet::file::properties::{EnabledStatistics, WriterProperties};
use ::parquet::schema::types::ColumnPath;
use arrow::array::RecordBatch;
use fleetscore_schemas::window::published_schema;
use std::io::Write;

/// Rows of a row group: what the encoder holds in memory, encoded.
const ROW_GROUP: usize = 128 * 1024;

/// The file as it grows. The same batches give the same bytes.
pub struct Encoder<W: Write + Send> {
    writer: ArrowWriter<W>,
}

impl<W: Write + Send> std::fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}

impl<W: Write + Send> Encoder<W> {
    /// Writes the file's head.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(out: W) -> Result<Self> {
        let distinct = |builder, column: &str| {
            // Hardly a value comes twice: a dictionary would be filled and thrown away.
            let builder: ::parquet::file::properties::WriterPropertiesBuilder = builder;
            builder.set_column_dictionary_enabled(ColumnPath::from(column), false)
        };
        let properties = WriterProperties::builder()
            .set_created_by("fleetscore".to_owned())
            .set_compression(Compression::SNAPPY) // what every reader can open
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_max_row_group_row_count(Some(ROW_GROUP));
        let properties = ["value", "decision", "model"].into_iter().fold(properties, distinct).build();
        Ok(Self { writer: ArrowWriter::try_new(out, published_schema(), Some(properties))? })
    }

    /// Writes a batch with the columns of [`published_schema`].
    ///
    /// # Errors
    /// Those of `out`, and other columns.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.writer.write(batch)
    }

    /// Writes the file's foot, and gives back what was written to.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn finish(self) -> Result<W> {
        self.writer.into_inner()
    }
}
