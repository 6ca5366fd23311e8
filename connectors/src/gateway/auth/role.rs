//! Roles, each of which may do what those before it may, and what there is to do.

use std::fmt;

use serde::Deserialize;

/// What somebody is to a tenant or a document; the greater, the more they may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads, and sees who else is there.
    Viewer,
    /// Also edits documents.
    Collaborator,
    /// Also writes events of every kind, memories and relations.
    Editor,
    /// Also rolls back, branches, merges and deletes.
    Owner,
}

/// What can be done to a document or in a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read, search, follow; tell others of one's presence.
    Read,
    /// Change documents.
    Edit,
    /// Write events of any kind, memories and relations.
    Produce,
    /// Roll back, branch, merge, delete.
    Administer,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Collaborator, Self::Editor, Self::Owner];

    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Collaborator => "collaborator",
            Self::Editor => "editor",
            Self::Owner => "owner",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    pub fn may(self, action: Action) -> bool {
        self >= action.role()
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Action {
    /// The least that may do it.
    pub fn role(self) -> Role {
        match self {
            Self::Read => Role::Viewer,
            Self::Edit => Role::Collaborator,
            Self::Produce => Role::Editor,
            Self::Administer => Role::Owner,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_what_the_one_before_it_may_and_one_thing_more() {
        let actions = [Action::Read, Action::Edit, Action::Produce, Action::Administer];
        for (count, role) in Role::ALL.into_iter().enumerate() {
            let allowed: Vec<Action> = actions.into_iter().filter(|action| role.may(*action)).collect();
            assert_eq!(allowed, actions[..=count], "{role}");
        }
    }

    #[test]
    fn names_are_read_back_and_others_are_none() {
        for role in Role::ALL {
            assert_eq!(Role::from_name(role.name()), Some(role));
            assert_eq!(serde_json::from_value::<Role>(role.name().into()).expect("a role"), role);
        }
        for name in ["", "Owner", "admin", "owner "] {
            assert_eq!(Role::from_name(name), None, "{name}");
        }
    }
}
