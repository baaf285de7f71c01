//! What is due for publication, and the fence of who publishes it.

use super::fixture::*;
use crate::*;

super::list![
    a_changed_interval_is_due_once,
    the_oldest_interval_is_published_first,
    a_publisher_that_lost_its_lease_is_fenced,
    a_renewed_lease_lasts_until_it_is_lost_or_published,
    a_change_after_the_claim_makes_it_due_again,
    late_trickles_wait_for_the_gap,
    what_a_person_waits_for_does_not_wait_for_the_gap,
    a_fence_is_raised_above_the_one_found,
    an_interval_that_is_half_done_is_passed_over,
    a_publishers_name_may_be_anything,
];

async fn claim(store: &dyn Store, lease_us: i64) -> Option<Publication> {
    store.claim_publication("p", lease_us).await.unwrap()
}

async fn with_gap(store: Arc<dyn Store>, republish_gap_us: i64) -> Stream {
    let s = stream(store, 1).await;
    s.store.put_schedule(&ScheduleSpec { republish_gap_us, ..schedule("default", 1) }).await.unwrap();
    s
}

async fn a_changed_interval_is_due_once(store: Arc<dyn Store>) {
    let s = with_gap(store, 0).await;
    let store = &*s.store;
    assert_eq!(claim(store, LONG).await, None);
    score(store, "default", span(0, 1), &[]).await;
    assert_eq!(claim(store, LONG).await, None, "a run without rows changes nothing");
    score(store, "default", span(0, 1), &[(s.series[0], Some(0.5), 1)]).await;
    let publication = claim(store, LONG).await.expect("due at once, never published before");
    assert_eq!((publication.schedule.as_str(), publication.interval), ("default", span(0, 1)));
    assert_eq!(publication.worker, "p");
    assert!(publication.fence > 0);
    assert_eq!(claim(store, LONG).await, None, "it is leased");
    assert_eq!(store.confirm_publication(&publication).await.unwrap(), Outcome::Done);
    assert_eq!(store.finish_publication(&publication).await.unwrap(), Outcome::Done);
    assert_eq!(claim(store, LONG).await, None, "it is published");
}

async fn the_oldest_interval_is_published_first(store: Arc<dyn Store>) {
    let s = with_gap(store, 0).await;
    for minute in [4, 2, 3] {
        score(&*s.store, "default", span(minute, minute + 1), &[(s.series[0], Some(0.5), 1)]).await;
    }
    for minute in 2..5 {
        assert_eq!(claim(&*s.store, LONG).await.unwrap().interval, span(minute, minute + 1));
    }
}

async fn a_publisher_that_lost_its_lease_is_fenced(store: Arc<dyn Store>) {
    let s = with_gap(store, 0).await;
    let store = &*s.store;
    score(store, "default", span(0, 1), &[(s.series[0], Some(0.5), 1)]).await;
    let paused = claim(store, 0).await.unwrap();
    sleep_ms(5).await;
    assert_eq!(store.confirm_publication(&paused).await.unwrap(), Outcome::Done, "run out, nobody took it");
    let publication = claim(store, LONG).await.expect("the lease ran out");
    assert!(publication.fence > paused.fence);
    assert_eq!(store.confirm_publication(&paused).await.unwrap(), Outcome::Fenced);
    assert_eq!(store.finish_publication(&paused).await.unwrap(), Outcome::Fenced);
    assert_eq!(store.raise_publication(&paused, 100).await.unwrap(), None);
    assert_eq!(store.confirm_publication(&publication).await.unwrap(), Outcome::Done);
    assert_eq!(store.finish_publication(&publication).await.unwrap(), Outcome::Done);
}

async fn a_renewed_lease_lasts_until_it_is_lost_or_published(store: Arc<dyn Store>) {
    let s = with_gap(store, 0).await;
    let store = &*s.store;
    score(store, "default", span(0, 1), &[(s.series[0], Some(0.5), 1)]).await;
    // A lease that has run out is renewed as well, as long as nobody took it.
    let first = claim(store, 0).await.unwrap();
    assert_eq!(store.renew_publication(&first, LONG).await.unwrap(), Outcome::Done);
    sleep_ms(5).await;
    assert_eq!(claim(store, LONG).await, None, "it is leased again");
    assert_eq!(store.confirm_publication(&first).await.unwrap(), Outcome::Done, "under the same fence");
    assert_eq!(store.renew_publication(&first, 0).await.unwrap(), Outcome::Done);
    sleep_ms(5).await;
    let second = claim(store, LONG).await.expect("by the length that was asked for");
    assert_eq!(store.renew_publication(&first, LONG).await.unwrap(), Outcome::Fenced);
    let raised = store.raise_publication(&second, 9).await.unwrap().unwrap();
    assert_eq!(store.renew_publication(&second, LONG).await.unwrap(), Outcome::Fenced);
    assert_eq!(store.renew_publication(&raised, LONG).await.unwrap(), Outcome::Done);
    assert_eq!(store.finish_publication(&raised).await.unwrap(), Outcome::Done);
    assert_eq!(store.renew_publication(&raised, LONG).await.unwrap(), Outcome::Fenced, "it is published");
    // A renewal that came late must not keep what is due next from others.
    score(store, "default", span(0, 1), &[(s.series[0], Some(0.25), 1)]).await;
    assert!(claim(store, LONG).await.is_some());
}

async fn a_change_after_the_claim_makes_it_due_again(store: Arc<dyn Store>) {
    let s = with_gap(store, 0).await;
    let store = &*s.store;
    score(store, "default", span(0, 1), &[(s.series[0], Some(0.5), 1)]).await;
    let first = claim(store, LONG).await.unwrap();
    score(store, "default", span(0, 1), &[(s.series[0], Some(0.75), 2)]).await;
    assert_eq!(
        store.confirm_publication(&first).await.unwrap(),
        Outcome::Done,
        "a commit takes no lease away"
    );
    assert_eq!(store.finish_publication(&first).await.unwrap(), Outcome::Done);
    let second = claim(store, LONG).await.expect("what was read may have been the older one");
    assert!(second.change > first.change && second.fence > first.fence);
    assert_eq!(store.finish_publication(&second).await.unwrap(), Outcome::Done);
    assert_eq!(claim(store, LONG).await, None);
}

async fn what_a_person_waits_for_does_not_wait_for_the_gap(store: Arc<dyn Store>) {
    let s = with_gap(store, LONG).await;
    let store = &*s.store;
    for minute in [0, 1] {
        score(store, "default", span(minute, minute + 1), &[(s.series[0], Some(0.5), 1)]).await;
        let first = claim(store, LONG).await.unwrap();
        assert_eq!(store.finish_publication(&first).await.unwrap(), Outcome::Done);
        score(store, "default", span(minute, minute + 1), &[(s.series[0], Some(-0.5), 1)]).await;
    }
    assert_eq!(claim(store, LONG).await, None, "both were published a moment ago");
    store.hasten_publications("other", span(0, 9)).await.unwrap();
    assert_eq!(claim(store, LONG).await, None);
    store.hasten_publications("default", span(1, 2)).await.unwrap();
    assert_eq!(claim(store, LONG).await.map(|p| p.interval), Some(span(1, 2)));
    assert_eq!(claim(store, LONG).await, None, "the other one waits");
}

async fn late_trickles_wait_for_the_gap(store: Arc<dyn Store>) {
    let s = with_gap(store, LONG).await;
    let store = &*s.store;
    score(store, "default", span(0, 1), &[(s.series[0], Some(0.5), 1)]).await;
    let first = claim(store, LONG).await.unwrap();
    assert_eq!(store.finish_publication(&first).await.unwrap(), Outcome::Done);
    score(store, "default", span(0, 1), &[(s.series[0], Some(0.75), 2)]).await;
    assert_eq!(claim(store, LONG).await, None, "published a moment ago");
    score(store, "default", span(1, 2), &[(s.series[0], Some(0.5), 1)]).await;
    assert_eq!(
        claim(store, LONG).await.unwrap().interval,
        span(1, 2),
        "an interval never published is due at once"
    );
    s.store.put_schedule(&ScheduleSpec { republish_gap_us: 1, ..schedule("default", 1) }).await.unwrap();
    sleep_ms(2).await;
    assert_eq!(claim(store, LONG).await.unwrap().interval, span(0, 1));
}

async fn a_fence_is_raised_above_the_one_found(store: Arc<dyn Store>) {
    let s = with_gap(store, 0).await;
    let store = &*s.store;
    score(store, "default", span(0, 1), &[(s.series[0], Some(0.5), 1)]).await;
    let first = claim(store, LONG).await.unwrap();
    let raised = store.raise_publication(&first, 41).await.unwrap().expect("still ours");
    assert!(raised.fence > 41, "{}", raised.fence);
    assert_eq!(Publication { fence: first.fence, ..raised.clone() }, first, "nothing else changes");
    assert_eq!(store.confirm_publication(&first).await.unwrap(), Outcome::Fenced);
    assert_eq!(store.confirm_publication(&raised).await.unwrap(), Outcome::Done);
    assert_eq!(store.finish_publication(&raised).await.unwrap(), Outcome::Done);
    score(store, "default", span(0, 1), &[(s.series[0], Some(0.25), 1)]).await;
    assert!(claim(store, LONG).await.unwrap().fence > raised.fence);
}

async fn an_interval_that_is_half_done_is_passed_over(store: Arc<dyn Store>) {
    let s = with_gap(store, 0).await;
    let store = &*s.store;
    for minute in 0..2 {
        score(store, "default", span(minute, minute + 1), &[(s.series[0], Some(0.5), 1)]).await;
    }
    // It was due before, and a run of it has changed the first of its shards since.
    let run = NewRun { cuts: vec![s.series[2]], ..new_run("default", span(0, 1), Some(1)) };
    open_runs(store, vec![run]).await;
    let (first, second) = (claim_any(store, LONG).await.unwrap(), claim_any(store, LONG).await.unwrap());
    assert!(is_done(&commit_rows(store, &first, &[(s.series[0], Some(0.75), 2)]).await.unwrap()));
    assert_eq!(claim(store, LONG).await.unwrap().interval, span(1, 2));
    assert_eq!(claim(store, LONG).await, None);
    assert!(is_done(&commit_rows(store, &second, &[]).await.unwrap()));
    assert_eq!(claim(store, LONG).await.unwrap().interval, span(0, 1));
}

async fn a_publishers_name_may_be_anything(store: Arc<dyn Store>) {
    let s = with_gap(store, 0).await;
    score(&*s.store, "default", span(0, 1), &[(s.series[0], Some(0.5), 1)]).await;
    let publication = s.store.claim_publication("p\0q", LONG).await.unwrap().unwrap();
    assert_eq!(s.store.finish_publication(&publication).await.unwrap(), Outcome::Done);
}
