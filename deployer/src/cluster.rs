//! A cluster that we are connected to: looking, planning and writing. What a plan says is decided in
//! [`crate::plan`] and [`crate::apply`]; watching is in [`crate::watch`].

use crate::api::{Api, Patch};
use crate::connect::{self, ConnectOptions};
use crate::error::Error;
use crate::image::{Image, Provenance};
use crate::kinds::Kinds;
use crate::object::ObjectName;
use crate::ownership::{self, Yield};
use crate::plan::{Action, Adoption, Change, Finding, Live, Plan, Step, plan_images};
use crate::ticket::{Executed, Ticket};
use crate::{Manifest, Target, apply, nodes, plan_apply, workload};
use jiff::Timestamp;
use serde_json::{Value, json};

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Request {
    /// The image; manifests can do without.
    pub image: Option<Image>,
    /// On what.
    pub what: What,
    /// Where the change comes from.
    pub provenance: Provenance,
}

/// On what something is to be done.
#[derive(Clone, Debug)]
pub enum What {
    /// Change the image of workloads that exist.
    Targets(Vec<Target>),
    /// Make objects as manifests say.
    Manifests {
        /// The manifests, in order.
        manifests: Vec<Manifest>,
        /// The container that takes the image; `None` for those whose image is most like it.
        container: Option<String>,
    },
}

/// A connection to a cluster.
pub struct Cluster {
    pub(crate) api: Api,
    kinds: Kinds,
    namespace: String,
    /// The namespace that somebody asked for, not just the context's.
    asked_namespace: Option<String>,
    version: String,
}

impl Cluster {
    /// Connects, and asks the server who it is: one request.
    ///
    /// # Errors
    ///
    /// Fails with [`Error::NoCluster`] if there is none, and with what is wrong with the kubeconfig, its
    /// context, the login or the way to the server.
    pub async fn connect(options: &ConnectOptions) -> Result<Cluster, Error> {
        let connection = connect::connect(options).await?;
        let api = Api::new(connection.client, connection.server);
        let version = match api.document("/version").await {
            Err(Error::Forbidden { .. }) => Value::Null, // a hardened server; that it answers is enough
            version => version?.unwrap_or_default(),
        };
        Ok(Cluster {
            api,
            kinds: Kinds::default(),
            namespace: connection.namespace,
            asked_namespace: options.namespace.clone(),
            version: version["gitVersion"].as_str().unwrap_or_default().to_owned(),
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

    /// The server's version: `v1.20.2`.
    pub fn version(&self) -> &str {
        &self.version
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
            What::Targets(targets) => {
                let live = self.look_up(targets).await?;
                let image = request.image.as_ref().ok_or(Error::NoImage)?;
                (plan_images(&live, image, &request.provenance)?, live)
            }
            What::Manifests { manifests, container } => {
                (self.plan_manifests(manifests, container.as_deref(), request).await?, Vec::new())
            }
        };
        if let Some(image) = &request.image {
            let findings = self.check_nodes(image, &plan, &live).await?;
            plan.findings.extend(findings);
        }
        Ok(plan)
    }

    pub(crate) async fn look_up(&self, targets: &[Target]) -> Result<Vec<(Target, Live)>, Error> {
        if targets.is_empty() {
            return Err(Error::NoTargets);
        }
        let mut live = Vec::new();
        for target in targets {
            let resource = self.kinds.find(&self.api, &target.kind).await?;
            let name = ObjectName::new(resource, &self.namespace, &target.name);
            let object = self.api.get(&name).await?.ok_or_else(|| Error::Missing(Box::new(name.clone())))?;
            live.push((target.clone(), Live { name, object }));
        }
        Ok(live)
    }

    async fn plan_manifests(
        &self,
        manifests: &[Manifest],
        container: Option<&str>,
        request: &Request,
    ) -> Result<Plan, Error> {
        if manifests.is_empty() {
            return Err(Error::NoTargets);
        }
        let mut documents = Vec::new();
        for manifest in manifests {
            let name = self.name_of(manifest).await?;
            let live = self.api.get(&name).await?;
            documents.push((name, manifest.clone(), live));
        }
        let mut plan = plan_apply(&documents, request.image.as_ref(), container, &request.provenance)?;
        let new_namespaces: Vec<String> = plan
            .actions
            .iter()
            .filter(|action| is_new_namespace(action))
            .map(|action| action.object.name.clone())
            .collect();
        for (action, (_, _, live)) in plan.actions.iter_mut().zip(&documents) {
            let home = action.object.namespace.as_ref();
            if home.is_some_and(|home| new_namespaces.contains(home)) {
                continue; // there is nowhere to try it yet
            }
            plan.findings.extend(self.rehearse(action, live.as_ref()).await?);
        }
        Ok(plan)
    }

    async fn name_of(&self, manifest: &Manifest) -> Result<ObjectName, Error> {
        let resource = self.kinds.of(&self.api, manifest.api_version(), manifest.kind()).await?;
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
    async fn rehearse(&self, action: &mut Action, live: Option<&Value>) -> Result<Option<Finding>, Error> {
        let Step::Apply { body, adopt, force } = &mut action.step else { return Ok(None) };
        let quiet = live.map_or_else(|| body.clone(), |live| apply::with_old_provenance(body, live));
        let mut finding = None;
        let answer = match self.api.patch(&action.object, Patch::Apply { force: false }, &quiet, true).await {
            Err(Error::Conflict { object, conflicts }) => {
                match ownership::judge(conflicts) {
                    Yield::No(conflicts) => return Err(Error::Conflict { object, conflicts }),
                    Yield::Adopted => {}
                    Yield::Taken(fields) => {
                        *force = true;
                        finding = Some(Finding::note(
                            action.object.to_string(),
                            format!("takes fields set by kubectl commands: {}", fields.join(", ")),
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
            && !apply::differs(live, &answer)
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

    async fn check_nodes(&self, image: &Image, plan: &Plan, live: &[(Target, Live)]) -> Result<Vec<Finding>, Error> {
        let users: Vec<&Action> = plan
            .actions
            .iter()
            .filter(|action| !action.images.is_empty() && action.change != Change::Nothing)
            .collect();
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
                Step::Apply { body, .. } => Some(body),
                Step::Patch(_) | Step::Nothing => {
                    live.iter().find(|(_, live)| live.name == action.object).map(|(_, live)| &live.object)
                }
            };
            let template = object.and_then(|object| workload::template(&action.object.resource, object));
            findings.extend(nodes::check(image, &nodes, &action.object.to_string(), template)?);
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
            // Manifests were shown to the server while planning.
            if let Step::Patch(body) = &action.step {
                self.api.patch(&action.object, Patch::Merge, body, true).await?;
            }
        }
        Ok(())
    }

    /// Does what a plan says, in its order: one write per object, none where nothing changes.
    ///
    /// # Errors
    ///
    /// Stops at the first refusal; [`Error::Halfway`] lists what was written before.
    pub async fn execute(&self, plan: &Plan) -> Result<Executed, Error> {
        let mut executed = Executed::default();
        for action in &plan.actions {
            let answer = match self.act(action).await {
                Ok(answer) => answer,
                Err(source) => return Err(halfway(executed, source)),
            };
            tracing::debug!(object = %action.object, change = ?action.change, "object settled");
            executed.objects.push((action.object.clone(), action.change));
            executed.tickets.extend(Ticket::of(action, &answer, action.change != Change::Nothing, Timestamp::now()));
        }
        Ok(executed)
    }

    async fn act(&self, action: &Action) -> Result<Value, Error> {
        match &action.step {
            Step::Nothing => {
                self.api.get(&action.object).await?.ok_or_else(|| Error::Missing(Box::new(action.object.clone())))
            }
            Step::Patch(body) => self.api.patch(&action.object, Patch::Merge, body, false).await,
            Step::Apply { body, adopt, force } => {
                if let Some(adoption) = adopt {
                    self.api.patch(&action.object, Patch::Json, &adoption_patch(adoption), false).await?;
                }
                self.api.patch(&action.object, Patch::Apply { force: *force }, body, false).await
            }
        }
    }
}

/// The version makes the server refuse it (409) if anybody wrote in between.
fn adoption_patch(adoption: &Adoption) -> Value {
    json!([
        {"op": "replace", "path": "/metadata/managedFields", "value": adoption.managed_fields},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": adoption.resource_version},
    ])
}

fn is_new_namespace(action: &Action) -> bool {
    action.change == Change::Create
        && action.object.resource.group.is_empty()
        && action.object.resource.kind == "Namespace"
}

fn halfway(executed: Executed, source: Error) -> Error {
    if executed.written().next().is_none() {
        source
    } else {
        Error::Halfway { executed: Box::new(executed), source: Box::new(source) }
    }
}
