//! Predictions as Parquet: the columns of [`published_schema`], timestamps in UTC microseconds, plain UTF-8.

use ::parquet::arrow::ArrowWriter;
use ::parquet::basic::Compression;
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use arrow::array::RecordBatch;
use fleetscore_schemas::window::published_schema;

/// The file. The same rows give the same bytes.
///
/// # Errors
/// None for well-formed batches: writing goes to memory.
pub fn encode(batches: &[RecordBatch]) -> Result<Vec<u8>, ParquetError> {
    let properties = WriterProperties::builder()
        .set_created_by("fleetscore".to_owned())
        .set_compression(Compression::SNAPPY) // what every reader can open
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), published_schema(), Some(properties))?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.into_inner()
}
