//! How the refused sensors of a dead letter are stored: a JSON list, NULL where the whole record was refused.

use crate::{Result, StoreError};

pub(crate) fn sensors_text(sensors: &[String]) -> Option<String> {
    (!sensors.is_empty()).then(|| serde_json::Value::from(sensors).to_string())
}

pub(crate) fn sensors(text: Option<&str>) -> Result<Vec<String>> {
    text.map_or(Ok(Vec::new()), |t| serde_json::from_str(t).map_err(StoreError::internal))
}
