//! Who a caller is: what a token said of them, once it was found to be genuine.

use std::collections::BTreeMap;

use engram_schemas::document::DEFAULT_TENANT;

use super::refusal::Refusal;
use super::role::{Action, Role};

/// The actor where there is no authentication.
const ANYONE: &str = "anonymous";

/// A caller. A document's key is `engram_schemas::document::document_key(&identity.tenant, id)`: built so, it never leaves the
/// tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Without a colon, so that it can begin a document's key.
    pub tenant: String,
    pub actor: String,
    /// To be shown to others.
    pub name: Option<String>,
    /// In the whole tenant.
    pub role: Option<Role>,
    pub documents: Documents,
    /// From then on this is nobody any more, and their session ends; leeway included. Milliseconds since the epoch, UTC.
    pub expires_at_ms: Option<i64>,
}

/// Roles for some documents: by id, and by the beginning of ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Documents {
    exact: BTreeMap<String, Role>,
    /// Longest first.
    prefixes: Vec<(String, Role)>,
}

impl Documents {
    /// Of (document id, or the beginning of ids and `*`; role).
    pub fn new(entries: impl IntoIterator<Item = (String, Role)>) -> Self {
        let mut documents = Self::default();
        for (pattern, role) in entries {
            match pattern.strip_suffix('*') {
                Some(prefix) => documents.prefixes.push((prefix.to_owned(), role)),
                None => {
                    documents.exact.insert(pattern, role);
                }
            }
        }
        documents.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        documents
    }

    fn role(&self, document: &str) -> Option<Role> {
        let prefix = || self.prefixes.iter().find(|(prefix, _)| document.starts_with(prefix.as_str()));
        self.exact.get(document).copied().or_else(|| prefix().map(|(_, role)| *role))
    }
}

impl Identity {
    /// Everybody, where there is no authentication: owner of all in the tenant `default`.
    pub fn anyone() -> Self {
        Self {
            tenant: DEFAULT_TENANT.to_owned(),
            actor: ANYONE.to_owned(),
            name: None,
            role: Some(Role::Owner),
            documents: Documents::default(),
            expires_at_ms: None,
        }
    }

    /// Their role for a document of their tenant, by its id. The most specific entry decides, be it more or less than the
    /// others: that of the document, then that of the longest beginning of its id, then the role in the tenant.
    pub fn role_for(&self, document: &str) -> Option<Role> {
        self.documents.role(document).or(self.role)
    }

    /// Whether they may do this to a document of their tenant.
    ///
    /// # Errors
    /// [`Refusal::Forbidden`], the same whether or not there is such a document.
    pub fn require(&self, document: &str, action: Action) -> Result<(), Refusal> {
        permit(self.role_for(document), action)
    }

    /// Whether they may do in their tenant what is not about one document.
    ///
    /// # Errors
    /// [`Refusal::Forbidden`].
    pub fn require_in_tenant(&self, action: Action) -> Result<(), Refusal> {
        permit(self.role, action)
    }

    /// Whether a tenant that a request names is theirs.
    ///
    /// # Errors
    /// [`Refusal::Forbidden`].
    pub fn require_tenant(&self, tenant: &str) -> Result<(), Refusal> {
        if tenant == self.tenant { Ok(()) } else { Err(Refusal::other_tenant(&self.tenant)) }
    }

    pub fn is_expired(&self, now_ms: i64) -> bool {
        self.expires_at_ms.is_some_and(|end_ms| now_ms >= end_ms)
    }
}

fn permit(role: Option<Role>, action: Action) -> Result<(), Refusal> {
    if role.is_some_and(|role| role.may(action)) { Ok(()) } else { Err(Refusal::forbidden(role, action)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(role: Option<Role>, documents: &[(&str, Role)]) -> Identity {
        let documents = Documents::new(documents.iter().map(|(pattern, role)| ((*pattern).to_owned(), *role)));
        Identity { role, documents, ..Identity::anyone() }
    }

    #[test]
    fn the_most_specific_entry_decides() {
        let entries = [
            ("plans/*", Role::Collaborator),
            ("plans/2026/*", Role::Viewer),
            ("plans/2026/budget", Role::Owner),
            ("*x", Role::Owner),
        ];
        for (tenant, document, role) in [
            (None, "notes", None),
            (Some(Role::Editor), "notes", Some(Role::Editor)),
            (None, "plans/a", Some(Role::Collaborator)),
            (Some(Role::Owner), "plans/a", Some(Role::Collaborator)),
            (Some(Role::Owner), "plans/2026/a", Some(Role::Viewer)),
            (Some(Role::Viewer), "plans/2026/budget", Some(Role::Owner)),
            (None, "plans/2026/budget2", Some(Role::Viewer)),
            (None, "plans", None),
            (None, "a/plans/b", None),
            // A star that is not at the end is a star.
            (None, "yx", None),
            (None, "*x", Some(Role::Owner)),
        ] {
            assert_eq!(identity(tenant, &entries).role_for(document), role, "{tenant:?} {document}");
        }
        let all = identity(None, &[("*", Role::Viewer), ("a*", Role::Editor)]);
        assert_eq!(
            (all.role_for("b"), all.role_for("a"), all.role_for("")),
            (Some(Role::Viewer), Some(Role::Editor), Some(Role::Viewer))
        );
    }

    #[test]
    fn a_viewer_does_not_write_and_a_stranger_does_not_read() {
        let viewer = identity(Some(Role::Viewer), &[("mine", Role::Owner)]);
        assert_eq!(viewer.require("other", Action::Read), Ok(()));
        assert_eq!(viewer.require("mine", Action::Administer), Ok(()));
        assert_eq!(viewer.require("other", Action::Edit).expect_err("forbidden").status(), 403);
        // A document's role is none in the tenant.
        assert_eq!(viewer.require_in_tenant(Action::Produce).expect_err("forbidden").status(), 403);
        let stranger = identity(None, &[]);
        assert_eq!(stranger.require("any", Action::Read).expect_err("forbidden").status(), 403);
    }

    #[test]
    fn another_tenant_is_refused_without_a_word_of_it() {
        let refusal = identity(Some(Role::Owner), &[]).require_tenant("acme").expect_err("another tenant");
        assert_eq!(refusal.status(), 403);
        assert!(!refusal.to_string().contains("acme"), "{refusal}");
        assert_eq!(Identity::anyone().require_tenant("default"), Ok(()));
    }
}
