//! Tables for [`super::way_back`] and for what an undo means.

use super::*;
use crate::plan::tests::resource;
use crate::verdict::Evidence;

const OLD: &str = "registry.test/shop/web:1@sha256:1111111111111111111111111111111111111111111111111111111111111111";
const NEW: &str = "registry.test/shop/web:2@sha256:2222222222222222222222222222222222222222222222222222222222222222";
const GOOD: &str = "registry.test/shop/web:0@sha256:0000000000000000000000000000000000000000000000000000000000000000";

fn images(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(name, image)| ((*name).to_owned(), (*image).to_owned())).collect()
}

fn ticket() -> Ticket {
    Ticket {
        object: ObjectName::new(resource("apps", "Deployment"), "demo", "web"),
        uid: "u-1".into(),
        generation: 2,
        version: String::new(),
        changed: true,
        created: false,
        want: BTreeMap::new(),
        images: images(&[("web", NEW)]),
        before: images(&[("web", OLD)]),
        template: None,
        running: images(&[("web", NEW), ("side", "side:1")]),
        was_well: true,
        verified: BTreeMap::new(),
        written: "2026-11-23T04:59:50Z".parse().unwrap(),
    }
}

fn live(image: &str) -> Value {
    json!({"metadata": {"uid": "u-1", "resourceVersion": "77", "annotations": {
            "lighter.dev/commit": "abc", VERIFIED: "{}", "kubernetes.io/change-cause": "new", "theirs": "x"}},
        "spec": {"template": {"spec": {"containers": [{"name": "web", "image": image}, {"name": "side", "image": "side:1"}]}}}})
}

fn superseded(ticket: &Ticket, object: Option<&Value>) -> bool {
    matches!(way_back(ticket, object), Way::None(Back::Superseded { .. }))
}

#[test]
fn only_the_image_goes_back_and_only_if_nobody_writes_in_between() {
    let Way::Back { body, images } = way_back(&ticket(), Some(&live(NEW))) else { panic!() };
    let cause = format!("lighter went back to web: {OLD}");
    let expected = json!({
        "metadata": {"uid": "u-1", "resourceVersion": "77",
            "annotations": {"kubernetes.io/change-cause": cause, "lighter.dev/commit": null}},
        "spec": {"template": {"spec": {"containers": [{"name": "web", "image": OLD}]}}},
    });
    assert_eq!(body, expected);
    assert_eq!(images, super::tests::images(&[("web", OLD)]));
}

#[test]
fn what_is_not_ours_any_more_is_left_alone() {
    assert!(superseded(&ticket(), Some(&live("registry.test/shop/web:3"))));
    assert!(superseded(&ticket(), None));
    let mut namesake = live(NEW);
    namesake["metadata"]["uid"] = json!("u-2");
    assert!(superseded(&ticket(), Some(&namesake)));
    let mut other = ticket();
    other.images = images(&[("gone", NEW)]);
    other.before = images(&[("gone", OLD)]);
    assert!(superseded(&other, Some(&live(NEW))));
}

#[test]
fn without_a_version_before_or_another_image_there_is_no_way_back() {
    let created = Ticket { created: true, before: BTreeMap::new(), ..ticket() };
    assert!(matches!(way_back(&created, Some(&live(NEW))), Way::None(Back::Left { .. })));
    let same = Ticket { before: images(&[("web", NEW)]), ..ticket() };
    assert!(matches!(way_back(&same, Some(&live(NEW))), Way::None(Back::Left { .. })));
    let added = Ticket { before: BTreeMap::new(), ..ticket() };
    assert!(matches!(way_back(&added, Some(&live(NEW))), Way::None(Back::Left { .. })));
}

#[test]
fn the_way_leads_to_the_last_version_that_ran_well() {
    for (was_well, verified, to) in [
        (true, images(&[]), OLD),
        (true, images(&[("web", GOOD)]), OLD), // somebody else's version, and it ran well
        (false, images(&[("web", GOOD)]), GOOD),
        (false, images(&[("web", NEW)]), OLD), // what was well once is what fails now
        (false, images(&[("other", GOOD)]), OLD),
    ] {
        let ticket = Ticket { was_well, verified, ..ticket() };
        assert_eq!(version_before(&ticket, "web"), Some(to), "{ticket:?}");
    }
}

#[test]
fn the_worst_target_decides_what_an_undo_means() {
    let restored = |end: End| Back::Restored { images: images(&[("web", OLD)]), end: Box::new(end) };
    let well = || restored(End::Done { evidence: Evidence::Available { pods: 1 } });
    let unwell = || restored(undecided("not well within 5 s"));
    let superseded = || Back::Superseded { by: "web runs x".into() };
    let left = || Back::Left { why: "there is no version before it".into() };
    for (backs, class) in [
        (vec![well()], Class::RolledBack),
        (vec![well(), superseded()], Class::RolledBack),
        (vec![superseded()], Class::Superseded),
        (vec![well(), left()], Class::Failed),
        (vec![well(), left(), unwell()], Class::RollbackFailed),
        (vec![Back::Failed { why: "forbidden".into() }, well()], Class::RollbackFailed),
        (vec![], Class::Failed),
    ] {
        let object = ticket().object;
        let targets = backs.into_iter().map(|back| UndoneTarget { object: object.clone(), back }).collect();
        let undone = Undone { targets };
        assert_eq!(undone.class(), class, "{undone:?}");
    }
}
