//! A cluster that we are connected to: looking and planning. What a plan says is decided in
//! [`crate::plan`] and [`crate::apply`]; manifests are planned in [`crate::manifests`], writing is in
//! [`crate::write`], watching in [`crate::watch`].

use crate::api::{Api, Patch};
use crate::assign::Assignment;
use crate::body::images_patch;
use crate::connect::{self, ConnectOptions};
use crate::discovery::Memory;
use crate::error::Error;
use crate::guard::Guard;
use crate::image::{Image, Provenance};
use crate::kinds::Kinds;
use crate::object::{ObjectName, Resource};
use crate::ownership::{self, Force, Yield};
use crate::plan::{Action, Change, Finding, Live, Options, Plan, Step, plan_images};
use crate::set::Set;
use crate::{Manifest, Target, Which, apply, nodes, workload};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::Value;

/// Most objects that are looked up at the same time.
pub(crate) const AT_ONCE: usize = 8;
/// The kinds that a selector looks through, if none are named.
const SELECTED: [&str; 3] = ["deployments", "statefulsets", "daemonsets"];

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Request {
    /// The images, and which containers take each; manifests can do without.
    pub images: Vec<Assignment>,
    /// On what.
    pub what: What,
    /// Where the change comes from.
    pub provenance: Provenance,
    /// What must be true of the objects.
    pub guard: Guard,
    /// Whether a Job may be deleted and made anew.
    pub replace_jobs: bool,
    /// Which fields of others may be taken.
    pub force: Force,
    /// The set that the manifests are the whole of: what is of it and no longer in them is deleted.
    pub set: Option<Set>,
    /// Whether to show manifests to the server while planning, so that it checks them.
    pub rehearse: bool,
}

impl Request {
    /// Asks for an image, or for manifests, and for nothing unusual.
    pub fn new(image: Option<Image>, what: What) -> Request {
        Request {
            images: image.into_iter().map(Assignment::from).collect(),
            what,
            provenance: Provenance::default(),
            guard: Guard::default(),
            replace_jobs: false,
            force: Force::Nothing,
            set: None,
            rehearse: true,
        }
    }

    pub(crate) fn options(&self) -> Options {
        Options { provenance: self.provenance.clone(), guard: self.guard.clone(), replace_jobs: self.replace_jobs }
    }
}

/// On what something is to be done.
#[derive(Clone, Debug)]
pub enum What {
    /// Change the image of workloads that exist.
    Targets(Vec<Target>),
    /// Change the image of all workloads with these labels.
    Selected {
        /// The kinds to look through; Deployments, StatefulSets and DaemonSets if there are none.
        kinds: Vec<String>,
        /// A label selector: `app=web,tier!=db`.
        selector: String,
    },
    /// Make objects as these manifests say, in order.
    Manifests(Vec<Manifest>),
}

/// A connection to a cluster.
pub struct Cluster {
    pub(crate) api: Api,
    pub(crate) kinds: Kinds,
    namespace: String,
    /// The namespace that somebody asked for, not just the context's.
    asked_namespace: Option<String>,
}

impl Cluster {
    /// Makes ready to talk to a server; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// Fails with [`Error::NoCluster`] if there is none, and with what is wrong with the kubeconfig or its context.
    pub async fn connect(options: &ConnectOptions) -> Result<Cluster, Error> {
        let connection = connect::connect(options).await?;
        let memory = options.discovery.as_ref().map(|directory| Memory::new(directory, &connection.server));
        Ok(Cluster {
            api: Api::new(connection.client, connection.server, connection.acts_as),
            kinds: Kinds::new(options.image_paths.clone(), memory),
            namespace: connection.namespace,
            asked_namespace: options.namespace.clone(),
        })
    }

    /// The URL of the API server.
    pub fn server(&self) -> &str {
        self.api.server()
    }

    /// The namespace of objects that name none.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The server's version: `v1.20.2`; `None` if it does not tell us.
    ///
    /// # Errors
    ///
    /// Fails with what is wrong with the login or the way to the server.
    pub async fn version(&self) -> Result<Option<String>, Error> {
        match self.api.document("/version").await {
            Err(Error::Forbidden { .. }) => Ok(None), // a hardened server
            version => Ok(version?.and_then(|version| version["gitVersion"].as_str().map(str::to_owned))),
        }
    }

    /// Looks at what there is and says what would be written. Writes nothing; manifests are also shown to
    /// the server, which checks them (dry run).
    ///
    /// # Errors
    ///
    /// Fails if anything named does not exist, fields belong to others, no node can run the image, or the
    /// server refuses: all that can be known before the first write.
    pub async fn plan(&self, request: &Request) -> Result<Plan, Error> {
        let (mut plan, live) = match &request.what {
            What::Targets(targets) => self.plan_targets(self.look_up(targets).await?, request)?,
            What::Selected { kinds, selector } => self.plan_targets(self.select(kinds, selector).await?, request)?,
            What::Manifests(manifests) => (self.plan_manifests(manifests, request).await?, Vec::new()),
        };
        plan.force = request.force.clone();
        let findings = self.check_nodes(&request.images, &mut plan, &live).await?;
        plan.findings.extend(findings);
        Ok(plan)
    }

    fn plan_targets(&self, live: Vec<(Target, Live)>, request: &Request) -> Result<(Plan, Vec<(Target, Live)>), Error> {
        if request.images.is_empty() {
            return Err(Error::NoImage);
        }
        Ok((plan_images(&live, &request.images, &request.options())?, live))
    }

    pub(crate) async fn look_up(&self, targets: &[Target]) -> Result<Vec<(Target, Live)>, Error> {
        if targets.is_empty() {
            return Err(Error::NoTargets);
        }
        let one = async |target: &Target| -> Result<(Target, Live), Error> {
            let (mut name, mut object) = self.look_for(target).await?;
            if object.is_none() && self.kinds.forget_remembered().await {
                (name, object) = self.look_for(target).await?;
            }
            let object = object.ok_or_else(|| Error::Missing(Box::new(name.clone())))?;
            Ok((target.clone(), Live { name, object }))
        };
        stream::iter(targets.iter().map(one)).buffered(AT_ONCE).try_collect().await
    }

    async fn look_for(&self, target: &Target) -> Result<(ObjectName, Option<Value>), Error> {
        let resource = self.kinds.find(&self.api, &target.kind).await?;
        let name = ObjectName::new(resource, &self.namespace, &target.name);
        let object = self.api.get(&name).await?;
        Ok((name, object))
    }

    async fn select(&self, kinds: &[String], selector: &str) -> Result<Vec<(Target, Live)>, Error> {
        let named: Vec<&str> = kinds.iter().map(String::as_str).collect();
        let kinds = if named.is_empty() { SELECTED.to_vec() } else { named };
        let mut live = Vec::new();
        for kind in &kinds {
            let resource = self.kinds.find(&self.api, kind).await?;
            for object in self.api.list_labelled(&resource, Some(&self.namespace), selector).await? {
                let name =
                    ObjectName::new(resource.clone(), &self.namespace, workload::text(&object["metadata"]["name"]));
                let target =
                    Target { kind: (*kind).to_owned(), name: name.name.clone(), which: Which::Fitting, wave: 0 };
                live.push((target, Live { name, object }));
            }
        }
        if live.is_empty() {
            let (kinds, namespace) = (kinds.join(", "), self.namespace.clone());
            return Err(Error::NothingSelected { kinds, namespace, selector: selector.to_owned() });
        }
        Ok(live)
    }

    /// The full name of a manifest's object; `defined` are kinds that come with the same manifests.
    pub(crate) async fn name_of(&self, manifest: &Manifest, defined: &[Resource]) -> Result<ObjectName, Error> {
        let is_it =
            |resource: &&Resource| resource.api_version() == manifest.api_version() && resource.kind == manifest.kind();
        let resource = match self.kinds.of(&self.api, manifest.api_version(), manifest.kind()).await {
            Err(Error::UnknownKind(word)) => {
                let found = defined.iter().find(is_it).cloned();
                self.kinds.with_path(found.ok_or(Error::UnknownKind(word))?)
            }
            resource => resource?,
        };
        let name = ObjectName::new(resource, manifest.namespace().unwrap_or(&self.namespace), manifest.name());
        match (&self.asked_namespace, &name.namespace) {
            (Some(asked), Some(own)) if asked != own => {
                let origin = format!("{}, document {}", manifest.origin.0, manifest.origin.1);
                Err(Error::Namespace { origin, object: name.clone().into(), asked: asked.clone() })
            }
            _ => Ok(name),
        }
    }

    /// Sends an action as a dry run, to learn about conflicts, refusals, and whether it changes anything.
    pub(crate) async fn rehearse(
        &self,
        action: &mut Action,
        live: Option<&Value>,
        plan: &Plan,
    ) -> Result<Option<Finding>, Error> {
        let Step::Apply { body, adopt, force } = &mut action.step else { return Ok(None) };
        let keeps_iid = plan.guard.newer_than_live.is_some();
        let mut quiet = live.map_or_else(|| body.clone(), |live| apply::with_old_provenance(body, live, keeps_iid));
        if let Some(metadata) = quiet["metadata"].as_object_mut() {
            metadata.remove("resourceVersion"); // what it says of this moment is for the write
        }
        let mut finding = None;
        let answer = match self.api.patch(&action.object, Patch::Apply { force: false }, &quiet, true).await {
            Err(Error::Conflict { object, conflicts }) => {
                match ownership::judge(conflicts, &plan.force) {
                    Yield::No(conflicts) => return Err(Error::Conflict { object, conflicts }),
                    Yield::Adopted => {}
                    Yield::Taken(fields) => {
                        *force = true;
                        if let Some(live) = live {
                            // Only these conflicts were allowed: whoever writes in between is looked at anew.
                            body["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
                        }
                        finding = Some(Finding::note(
                            action.object.to_string(),
                            format!("takes fields set by others: {}", fields.join(", ")),
                        ));
                    }
                }
                self.api.patch(&action.object, Patch::Apply { force: true }, &quiet, true).await?
            }
            answer => answer?,
        };
        if let Some(live) = live
            && adopt.is_none()
            && !*force
            && self.is_unchanged(&action.object, live, &answer).await?
        {
            action.change = Change::Nothing;
            action.step = Step::Nothing;
        } else if adopt.is_some() {
            finding = finding.or(Some(Finding::note(
                action.object.to_string(),
                "takes over fields that `kubectl apply` or an image patch set before",
            )));
        }
        Ok(finding)
    }

    /// Whether a dry run would leave an object as it is. Controllers write annotations of their own at any moment, and
    /// what was read before may be older than what the server was shown.
    async fn is_unchanged(&self, object: &ObjectName, live: &Value, answer: &Value) -> Result<bool, Error> {
        if !apply::differs(live, answer) {
            return Ok(true);
        }
        let version = |object: &Value| workload::text(&object["metadata"]["resourceVersion"]).to_owned();
        if version(live) == version(answer) || version(answer).is_empty() {
            return Ok(false);
        }
        Ok(self.api.get(object).await?.is_some_and(|now| !apply::differs(&now, answer)))
    }

    async fn check_nodes(
        &self,
        images: &[Assignment],
        plan: &mut Plan,
        live: &[(Target, Live)],
    ) -> Result<Vec<Finding>, Error> {
        let users =
            plan.actions.iter_mut().filter(|action| !action.images.is_empty() && action.change != Change::Nothing);
        let users: Vec<&mut Action> = users.collect();
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let nodes = match self.api.list(&nodes::resource(), None).await {
            Ok(nodes) => nodes,
            Err(Error::Forbidden { .. }) => {
                return Ok(vec![Finding::warning(
                    "",
                    "nodes may not be listed, so nobody checked that one can run the image",
                )]);
            }
            Err(error) => return Err(error),
        };
        let mut findings = Vec::new();
        for action in users {
            let object = match &action.step {
                Step::Apply { body, .. } | Step::Replace(body) => Some(body),
                Step::Patch(_) | Step::Delete | Step::Nothing => {
                    live.iter().find(|(_, live)| live.name == action.object).map(|(_, live)| &live.object)
                }
            };
            let pod_spec = object.and_then(|object| workload::pod_spec(&action.object.resource, object));
            let is_used =
                |one: &&Assignment| action.images.iter().any(|used| used.to == one.image.pinned().to_string());
            for one in images.iter().filter(is_used) {
                for finding in nodes::check(&one.image, &nodes, &action.object.to_string(), pod_spec)? {
                    if !findings.contains(&finding) {
                        findings.push(finding); // what is so for all images is said once
                    }
                }
            }
            let eligible = nodes::eligible(&nodes, pod_spec).into_iter().filter_map(nodes::platform);
            action.pull.platforms = eligible.map(|platform| platform.to_string()).collect();
        }
        Ok(findings)
    }

    /// Shows every write of a plan to the server without doing it.
    ///
    /// # Errors
    ///
    /// Fails as [`Cluster::execute`] would.
    pub async fn dry_run(&self, plan: &Plan) -> Result<(), Error> {
        for action in &plan.actions {
            match &action.step {
                Step::Patch(body) => {
                    self.api.patch(&action.object, images_patch(&action.object.resource), body, true).await?;
                }
                Step::Delete | Step::Replace(_) => {
                    self.api.delete(&action.object, action.uid.as_deref(), true).await?;
                }
                // Manifests were shown to the server while planning.
                Step::Nothing | Step::Apply { .. } => {}
            }
        }
        Ok(())
    }
}
