//! Taking over partitions: which rows are missing in `progress`, with which offsets.

use crate::core::ClaimRequest;
use crate::error::AggregatorError;
use crate::options::OnOffsetGap;
use crate::shared::{Shared, patiently};
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_store::{Claim, ProgressRow, Store};
use std::collections::BTreeMap;

/// Makes rows for partitions without one, then claims the granted ones. Waits for a store that does not answer.
pub(crate) async fn claim(
    store: &dyn Store,
    shared: &Shared,
    owner: &str,
    policy: OnOffsetGap,
    request: &ClaimRequest,
) -> Result<Vec<Claim>, AggregatorError> {
    let failed = |e| AggregatorError::store("claiming partitions", e);
    let progress = patiently(shared, "positions", || store.progress()).await.map_err(failed)?;
    let missing = missing_positions(&progress.rows, request, policy)?;
    if !missing.is_empty() {
        patiently(shared, "positions", || store.add_partitions(&request.cluster, &missing))
            .await
            .map_err(failed)?;
    }
    if request.partitions.is_empty() {
        return Ok(Vec::new());
    }
    patiently(shared, "claiming partitions", || store.claim(&request.cluster, owner, &request.partitions))
        .await
        .map_err(failed)
}

/// Partitions that need a row: at the setting `start` for a topic without rows, at their beginning where the topic has
/// rows already (they were added later, and nothing of them may be missed).
fn missing_positions(
    rows: &[ProgressRow],
    request: &ClaimRequest,
    policy: OnOffsetGap,
) -> Result<Vec<(TopicPartition, i64)>, AggregatorError> {
    // topic -> (has rows of this cluster, some other cluster's id)
    let mut topics: BTreeMap<&str, (bool, Option<&str>)> = BTreeMap::new();
    for row in rows {
        let (known, other) = topics.entry(&row.partition.topic).or_default();
        if row.source == request.cluster {
            *known = true;
        } else {
            *other = Some(&row.source);
        }
    }
    let mut missing = Vec::new();
    for offsets in &request.offsets {
        let (known, other) = topics.get(&*offsets.source.topic).copied().unwrap_or_default();
        if let (false, Some(other), OnOffsetGap::Stop) = (known, other, policy) {
            return Err(AggregatorError::OtherCluster {
                topic: offsets.source.topic.to_string(),
                stored: other.to_owned(),
                found: request.cluster.clone(),
            });
        }
        let has_row = rows.iter().any(|r| r.source == request.cluster && r.partition == offsets.source);
        if !has_row {
            // Kafka counts from 0. Where records of a later partition are deleted already, that is a gap like any other.
            missing.push((offsets.source.clone(), if known { 0 } else { offsets.initial }));
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_schemas::stream::PartitionOffsets;
    use fleetscore_schemas::time::Timestamp;

    fn row(source: &str, topic: &str, partition: i32) -> ProgressRow {
        ProgressRow {
            source: source.into(),
            partition: TopicPartition::new(topic, partition),
            next_offset: 5,
            end_offset: None,
            watermark: None,
            quiet_at: None,
            floor: None,
            epoch: 0,
            owner: None,
            owner_seen_at: None,
            created_at: Timestamp(0),
        }
    }

    fn request(partitions: &[(&str, i32)]) -> ClaimRequest {
        ClaimRequest {
            ticket: 1,
            cluster: "here".into(),
            partitions: Vec::new(),
            offsets: partitions
                .iter()
                .map(|(t, p)| PartitionOffsets {
                    source: TopicPartition::new(*t, *p),
                    earliest: 10,
                    latest: 90,
                    initial: 50,
                })
                .collect(),
        }
    }

    #[test]
    fn rows_are_made_where_there_are_none() {
        let new = request(&[("a", 0), ("a", 1)]);
        let offsets = |rows: &[ProgressRow]| {
            missing_positions(rows, &new, OnOffsetGap::Stop)
                .map(|m| m.into_iter().map(|(p, o)| (p.partition, o)).collect::<Vec<_>>())
        };
        assert_eq!(offsets(&[]).unwrap(), [(0, 50), (1, 50)], "a topic without rows begins at `start`");
        assert_eq!(
            offsets(&[row("here", "a", 0)]).unwrap(),
            [(1, 0)],
            "a partition added later, at its beginning, whatever of it is left"
        );
        assert_eq!(offsets(&[row("here", "a", 0), row("here", "a", 1)]).unwrap(), []);
        assert_eq!(
            offsets(&[row("here", "b", 0)]).unwrap(),
            [(0, 50), (1, 50)],
            "another topic says nothing"
        );
        assert_eq!(offsets(&[row("there", "b", 0)]).unwrap(), [(0, 50), (1, 50)], "nor another cluster's");
    }

    #[test]
    fn another_clusters_positions_stop_the_start() {
        let new = request(&[("a", 0)]);
        let there = [row("there", "a", 0)];
        let e = missing_positions(&there, &new, OnOffsetGap::Stop).unwrap_err();
        assert!(matches!(&e, AggregatorError::OtherCluster { stored, .. } if stored == "there"), "{e}");
        assert!(e.to_string().contains("on_offset_gap"));
        assert_eq!(missing_positions(&there, &new, OnOffsetGap::Continue).unwrap().len(), 1);
        // Accepted once, it is this topic's cluster too.
        let both = [row("there", "a", 0), row("here", "a", 0)];
        assert!(missing_positions(&both, &new, OnOffsetGap::Stop).unwrap().is_empty());
    }
}
