//! `--call=outline`: what a target can be given: build arguments, secrets, SSH agents, and the caches it keeps.
//!
//! A build argument counts if the target, or a stage that it needs, uses it: in an ARG of its own, or in its FROM,
//! with the arguments that the default of that one uses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use serde::Serialize;

use super::location::Location;
use super::{encoded, table};
use crate::check::{self, Bases, Named, description};
use crate::dockerfile::expand::Style;
use crate::dockerfile::{Dockerfile, Mount, MountKind, Span};
use crate::plan::{self, Action, Base, Options, Origin, Scope, StageId, StageOutline, StagePlan};

/// What a target can be given. It prints as BuildKit's tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outline {
    /// The name of the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the comment above it says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The build arguments, by line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Arg>,
    /// The secrets, by line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Asked>,
    /// The SSH agents, by line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<Asked>,
    /// The caches, by line. BuildKit's answer has a place for them and leaves it empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cache: Vec<CacheMount>,
    sources: [String; 1],
}

/// A build argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Arg {
    /// Its name.
    pub name: String,
    /// What the comment above it says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What it is worth; empty if it has no value.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// The ARG that says so.
    pub location: Location,
    /// Its line, and its place among the arguments there.
    #[serde(skip)]
    place: (usize, usize),
}

/// A secret or an SSH agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// Its id.
    pub name: String,
    /// Whether the step fails without it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// The first RUN that asks for it.
    pub location: Location,
    #[serde(skip)]
    first: usize,
}

/// A cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CacheMount {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: String,
    /// The first RUN that asks for it.
    pub location: Location,
    #[serde(skip)]
    first: usize,
}

/// Collects what the target can be given. A base image that is not known is taken for an empty one.
///
/// # Errors
/// What makes the Dockerfile impossible to build.
pub fn outline(file: &Dockerfile, options: &Options, base: Bases<'_>) -> Result<Outline, plan::Error> {
    let needed = plan::outline(file, options)?;
    let plans = check::plans(file, options, &needed, base, true)?;
    let stage = &file.stages[needed.target.0];
    let mut outline = Outline {
        name: stage.name.clone(),
        description: stage.name.as_deref().and_then(|name| description(file, stage.span, name)),
        args: arguments(file, options, &needed, &plans),
        secrets: Vec::new(),
        ssh: Vec::new(),
        cache: Vec::new(),
        sources: [encoded(&file.source)],
    };
    for id in nearest_first(&needed, &plans) {
        for step in plans.get(&id).map_or(&[][..], |plan| &plan.steps) {
            if let Action::Run(run) = &step.action {
                run.mounts.iter().for_each(|(mount, _)| outline.mount(mount, step.span));
            }
        }
    }
    outline.args.sort_by_key(|arg| arg.place);
    outline.secrets.sort_by_key(|secret| secret.first);
    outline.ssh.sort_by_key(|agent| agent.first);
    outline.cache.sort_by_key(|cache| cache.first);
    Ok(outline)
}

impl Outline {
    /// Of each id the first mount counts.
    fn mount(&mut self, mount: &Mount, span: Span) {
        let (location, first) = (Location::from(span), span.first);
        let ask = |asked: &mut Vec<Asked>, name: &str, location| {
            if asked.iter().all(|known| known.name != name) {
                asked.push(Asked { name: name.to_owned(), required: mount.required, location, first });
            }
        };
        match mount.kind {
            MountKind::Secret => ask(&mut self.secrets, mount.secret_id(), location),
            MountKind::Ssh => ask(&mut self.ssh, mount.ssh_id(), location),
            MountKind::Cache => {
                let id = mount.cache_id().into_owned();
                if self.cache.iter().all(|known| known.id != id) {
                    self.cache.push(CacheMount { id, location, first });
                }
            }
            MountKind::Bind | MountKind::Tmpfs => {}
        }
    }
}

/// The target, what it starts from, and what it takes files from, and so on with each: what stands in a nearer stage
/// counts before what stands in another.
fn nearest_first(needed: &plan::Outline, plans: &HashMap<StageId, StagePlan>) -> Vec<StageId> {
    let stages: HashMap<StageId, &StageOutline> = needed.stages.iter().map(|stage| (stage.id, stage)).collect();
    let (mut order, mut seen, mut open) = (Vec::new(), BTreeSet::new(), vec![needed.target]);
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        order.push(id);
        let sources = plans.get(&id).into_iter().flat_map(|plan| &plan.steps).flat_map(|step| sources(&step.action));
        let sources: Vec<StageId> = sources.collect();
        open.extend(sources.into_iter().rev());
        if let Some(Base::Stage(base)) = stages.get(&id).map(|stage| &stage.base) {
            open.push(*base);
        }
    }
    order
}

/// The stages that a step takes files from.
fn sources(action: &Action) -> Vec<StageId> {
    let stage = |origin: &Origin| match origin {
        Origin::Stage(id) => Some(*id),
        _ => None,
    };
    match action {
        Action::Copy(copy) => stage(&copy.from).into_iter().collect(),
        Action::Run(run) => run.mounts.iter().filter_map(|(_, origin)| origin.as_ref().and_then(stage)).collect(),
        _ => Vec::new(),
    }
}

fn arguments(
    file: &Dockerfile,
    options: &Options,
    needed: &plan::Outline,
    plans: &HashMap<StageId, StagePlan>,
) -> Vec<Arg> {
    let globals = Globals::new(file, options, &needed.globals);
    let mut in_from: HashMap<StageId, BTreeSet<String>> = HashMap::new();
    for stage in &needed.stages {
        let mut used = match &stage.base {
            Base::Stage(base) => in_from.get(base).cloned().unwrap_or_default(),
            _ => BTreeSet::new(),
        };
        if !stage.replaced {
            let written = &file.stages[stage.id.0];
            for text in std::iter::once(&written.base).chain(&written.platform) {
                used.extend(named(file, text, |name| needed.globals.value(name)));
            }
        }
        in_from.insert(stage.id, used);
    }
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    for id in nearest_first(needed, plans) {
        let mut own: BTreeMap<&str, Arg> = BTreeMap::new();
        let mut used = in_from.remove(&id).unwrap_or_default();
        for (number, declared) in plans.get(&id).map_or(&[][..], |plan| &plan.declared).iter().enumerate() {
            used.insert(declared.name.clone());
            if !declared.is_global {
                let description = match declared.is_trigger {
                    true => None, // the comment above belongs to the FROM
                    false => description(file, declared.span, &declared.name),
                };
                let value = declared.value.clone().unwrap_or_default();
                let arg = argument(&declared.name, description, value, declared.span, number);
                own.insert(&declared.name, arg);
            }
        }
        for name in globals.with_what_they_use(used, |name| own.contains_key(name)) {
            let arg = own.remove(name.as_str()).or_else(|| globals.0.get(&name).map(|(arg, _)| arg.clone()));
            found.extend(arg.filter(|_| seen.insert(name)));
        }
    }
    found
}

fn argument(name: &str, description: Option<String>, value: String, span: Span, number: usize) -> Arg {
    Arg { name: name.to_owned(), description, value, location: span.into(), place: (span.first, number) }
}

/// The variables in a text that are set.
fn named<'a>(file: &Dockerfile, text: &str, value: impl Fn(&str) -> Option<&'a str>) -> BTreeSet<String> {
    let mut named = Named::default();
    let lookup = |name: &str| value(name).map(str::to_owned);
    check::expand(Style::new(file.escape), text, &lookup, &mut named);
    named.set
}

/// The ARGs before the first FROM, the last of each name, with the names that its default uses.
struct Globals(BTreeMap<String, (Arg, BTreeSet<String>)>);

impl Globals {
    fn new(file: &Dockerfile, options: &Options, scope: &Scope) -> Self {
        let mut globals: BTreeMap<String, (Arg, BTreeSet<String>)> = BTreeMap::new();
        // What is set at each point; the last value of an ARG is the one in the scope.
        let own: BTreeSet<&str> =
            file.globals.iter().flat_map(|node| &node.value).map(|arg| arg.name.as_str()).collect();
        let mut set: BTreeSet<&str> =
            scope.pairs().iter().map(|(name, _)| name.as_str()).filter(|name| !own.contains(name)).collect();
        for node in &file.globals {
            for (number, arg) in node.value.iter().enumerate() {
                let given = options.build_args.contains_key(&arg.name);
                let default = arg.default.as_deref().filter(|_| !given);
                let lookup = |name: &str| scope.value(name).filter(|_| set.contains(name));
                let mut uses = default.map(|text| named(file, text, lookup)).unwrap_or_default();
                if uses.remove(&arg.name)
                    && let Some((_, before)) = globals.get(&arg.name)
                {
                    uses.extend(before.iter().cloned());
                }
                let has_value = given || arg.default.is_some();
                let value = scope.value(&arg.name).filter(|_| has_value).unwrap_or_default().to_owned();
                if has_value {
                    set.insert(&arg.name);
                }
                let description = description(file, node.span, &arg.name);
                let arg = argument(&arg.name, description, value, node.span, number);
                globals.insert(arg.name.clone(), (arg, uses));
            }
        }
        Self(globals)
    }

    /// The names, and those that their defaults use; a stage's own ARG hides the one of that name here.
    fn with_what_they_use(&self, names: BTreeSet<String>, is_own: impl Fn(&str) -> bool) -> BTreeSet<String> {
        let mut open: Vec<String> = names.into_iter().collect();
        let mut all = BTreeSet::new();
        while let Some(name) = open.pop() {
            if let Some((_, uses)) = self.0.get(&name).filter(|_| !is_own(&name)) {
                open.extend(uses.iter().filter(|used| !all.contains(*used)).cloned());
            }
            all.insert(name);
        }
        all
    }
}

impl fmt::Display for Outline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_some() || self.description.is_some() {
            let name = ["TARGET:", self.name.as_deref().unwrap_or("(default)")];
            let description = self.description.as_deref().map(|text| ["DESCRIPTION:", text]);
            let rows: Vec<[&str; 2]> = std::iter::once(name).chain(description).collect();
            writeln!(f, "{}", table::table(&rows, 1))?;
        }
        if !self.args.is_empty() {
            let row = |arg: &'_ Arg| [arg.name.clone(), arg.value.clone(), arg.description.clone().unwrap_or_default()];
            let rows: Vec<[String; 3]> = self.args.iter().map(row).collect();
            let rows = rows.iter().map(|row| row.each_ref().map(String::as_str));
            let rows: Vec<[&str; 3]> = std::iter::once(["BUILD ARG", "VALUE", "DESCRIPTION"]).chain(rows).collect();
            writeln!(f, "{}", table::table(&rows, 3))?;
        }
        for (title, asked) in [("SECRET", &self.secrets), ("SSH", &self.ssh)] {
            if !asked.is_empty() {
                let row = |asked: &'_ Asked| [asked.name.clone(), if asked.required { "true" } else { "" }.to_owned()];
                let rows: Vec<[String; 2]> = asked.iter().map(row).collect();
                let rows = rows.iter().map(|row| row.each_ref().map(String::as_str));
                let rows: Vec<[&str; 2]> = std::iter::once([title, "REQUIRED"]).chain(rows).collect();
                writeln!(f, "{}", table::table(&rows, 3))?;
            }
        }
        Ok(())
    }
}
