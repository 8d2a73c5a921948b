//! Kinds of objects, and the commands that need no more than a table to describe them.

use pg_query::NodeRef;
use pg_query::protobuf::{ObjectType, RangeVar};

use super::Kind;

/// What a command does to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Create,
    Alter,
    Drop,
}

macro_rules! objects {
    ($($object:ident: $create:ident $alter:ident $drop:ident,)*) => {
        /// The kind of the command that does `action` to such an object.
        pub(super) fn kind(action: Action, object: ObjectType) -> Kind {
            match (object, action) {
                $(
                    (ObjectType::$object, Action::Create) => Kind::$create,
                    (ObjectType::$object, Action::Alter) => Kind::$alter,
                    (ObjectType::$object, Action::Drop) => Kind::$drop,
                )*
            }
        }
    };
}

// Parts of an object go by the command that the object is changed with.
objects! {
    Undefined: Other Other Other,
    ObjectAccessMethod: CreateAccessMethod Other DropAccessMethod,
    ObjectAggregate: CreateAggregate AlterAggregate DropAggregate,
    ObjectAmop: AlterOperatorFamily AlterOperatorFamily AlterOperatorFamily,
    ObjectAmproc: AlterOperatorFamily AlterOperatorFamily AlterOperatorFamily,
    ObjectAttribute: AlterType AlterType AlterType,
    ObjectCast: CreateCast Other DropCast,
    ObjectColumn: AlterTable AlterTable AlterTable,
    ObjectCollation: CreateCollation AlterCollation DropCollation,
    ObjectConversion: CreateConversion AlterConversion DropConversion,
    ObjectDatabase: CreateDatabase AlterDatabase DropDatabase,
    ObjectDefault: AlterTable AlterTable AlterTable,
    ObjectDefacl: AlterDefaultPrivileges AlterDefaultPrivileges AlterDefaultPrivileges,
    ObjectDomain: CreateDomain AlterDomain DropDomain,
    ObjectDomconstraint: AlterDomain AlterDomain AlterDomain,
    ObjectEventTrigger: CreateEventTrigger AlterEventTrigger DropEventTrigger,
    ObjectExtension: CreateExtension AlterExtension DropExtension,
    ObjectFdw: CreateForeignDataWrapper AlterForeignDataWrapper DropForeignDataWrapper,
    ObjectForeignServer: CreateServer AlterServer DropServer,
    ObjectForeignTable: CreateForeignTable AlterForeignTable DropForeignTable,
    ObjectFunction: CreateFunction AlterFunction DropFunction,
    ObjectIndex: CreateIndex AlterIndex DropIndex,
    ObjectLanguage: CreateLanguage AlterLanguage DropLanguage,
    ObjectLargeobject: AlterLargeObject AlterLargeObject AlterLargeObject,
    ObjectMatview: CreateMaterializedView AlterMaterializedView DropMaterializedView,
    ObjectOpclass: CreateOperatorClass AlterOperatorClass DropOperatorClass,
    ObjectOperator: CreateOperator AlterOperator DropOperator,
    ObjectOpfamily: CreateOperatorFamily AlterOperatorFamily DropOperatorFamily,
    ObjectParameterAcl: Grant Grant Revoke,
    ObjectPolicy: CreatePolicy AlterPolicy DropPolicy,
    ObjectProcedure: CreateProcedure AlterProcedure DropProcedure,
    ObjectPublication: CreatePublication AlterPublication DropPublication,
    ObjectPublicationNamespace: AlterPublication AlterPublication AlterPublication,
    ObjectPublicationRel: AlterPublication AlterPublication AlterPublication,
    ObjectRole: CreateRole AlterRole DropRole,
    ObjectRoutine: CreateFunction AlterRoutine DropRoutine,
    ObjectRule: CreateRule AlterRule DropRule,
    ObjectSchema: CreateSchema AlterSchema DropSchema,
    ObjectSequence: CreateSequence AlterSequence DropSequence,
    ObjectSubscription: CreateSubscription AlterSubscription DropSubscription,
    ObjectStatisticExt: CreateStatistics AlterStatistics DropStatistics,
    ObjectTabconstraint: AlterTable AlterTable AlterTable,
    ObjectTable: CreateTable AlterTable DropTable,
    ObjectTablespace: CreateTablespace AlterTablespace DropTablespace,
    ObjectTransform: CreateTransform Other DropTransform,
    ObjectTrigger: CreateTrigger AlterTrigger DropTrigger,
    ObjectTsconfiguration: CreateTextSearchConfiguration AlterTextSearchConfiguration DropTextSearchConfiguration,
    ObjectTsdictionary: CreateTextSearchDictionary AlterTextSearchDictionary DropTextSearchDictionary,
    ObjectTsparser: CreateTextSearchParser AlterTextSearchParser DropTextSearchParser,
    ObjectTstemplate: CreateTextSearchTemplate AlterTextSearchTemplate DropTextSearchTemplate,
    ObjectType: CreateType AlterType DropType,
    ObjectUserMapping: CreateUserMapping AlterUserMapping DropUserMapping,
    ObjectView: CreateView AlterView DropView,
}

/// The part of an object's dotted name that names a relation, where there is one: the object itself,
/// or the table that it belongs to.
pub(super) fn relation_part<'n>(object: ObjectType, names: &'n [&'n str]) -> Option<&'n [&'n str]> {
    match object {
        ObjectType::ObjectTable
        | ObjectType::ObjectView
        | ObjectType::ObjectMatview
        | ObjectType::ObjectSequence
        | ObjectType::ObjectIndex
        | ObjectType::ObjectForeignTable => Some(names),
        ObjectType::ObjectColumn
        | ObjectType::ObjectTrigger
        | ObjectType::ObjectRule
        | ObjectType::ObjectPolicy
        | ObjectType::ObjectTabconstraint => names.split_last().map(|(_, table)| table),
        _ => None,
    }
}

/// An option of CREATE AGGREGATE, OPERATOR, TYPE or the like whose value is a function.
pub(super) fn names_a_function(option: &str) -> bool {
    matches!(
        option,
        "procedure"
            | "function"
            | "restrict"
            | "join"
            | "sfunc"
            | "sfunc1"
            | "msfunc"
            | "minvfunc"
            | "finalfunc"
            | "mfinalfunc"
            | "combinefunc"
            | "serialfunc"
            | "deserialfunc"
            | "input"
            | "output"
            | "receive"
            | "send"
            | "typmod_in"
            | "typmod_out"
            | "analyze"
            | "subscript"
            | "canonical"
            | "subtype_diff"
            | "start"
            | "gettoken"
            | "end"
            | "headline"
            | "lextypes"
            | "init"
            | "lexize"
    )
}

/// Commands whose kind the node tells, and the one relation that they change. Whatever else stands in
/// them is walked.
pub(super) fn simple(node: NodeRef<'_>) -> Option<(Kind, Option<&RangeVar>)> {
    Some(match node {
        NodeRef::CreateStmt(create) => (Kind::CreateTable, create.relation.as_ref()),
        NodeRef::IndexStmt(index) => (Kind::CreateIndex, index.relation.as_ref()),
        NodeRef::ViewStmt(view) => (Kind::CreateView, view.view.as_ref()),
        NodeRef::RefreshMatViewStmt(refresh) => (Kind::RefreshMaterializedView, refresh.relation.as_ref()),
        NodeRef::CreateSeqStmt(create) => (Kind::CreateSequence, create.sequence.as_ref()),
        NodeRef::AlterSeqStmt(alter) => (Kind::AlterSequence, alter.sequence.as_ref()),
        NodeRef::CreatePolicyStmt(policy) => (Kind::CreatePolicy, policy.table.as_ref()),
        NodeRef::AlterPolicyStmt(policy) => (Kind::AlterPolicy, policy.table.as_ref()),
        NodeRef::ClusterStmt(cluster) => (Kind::Cluster, cluster.relation.as_ref()),
        NodeRef::ReindexStmt(reindex) => (Kind::Reindex, reindex.relation.as_ref()),
        NodeRef::AlterStatsStmt(_) => (Kind::AlterStatistics, None),
        NodeRef::CreateSchemaStmt(_) => (Kind::CreateSchema, None),
        NodeRef::CreatedbStmt(_) => (Kind::CreateDatabase, None),
        NodeRef::DropdbStmt(_) => (Kind::DropDatabase, None),
        NodeRef::AlterDatabaseStmt(_) | NodeRef::AlterDatabaseRefreshCollStmt(_) => {
            (Kind::AlterDatabase, None)
        }
        NodeRef::CreateTableSpaceStmt(_) => (Kind::CreateTablespace, None),
        NodeRef::DropTableSpaceStmt(_) => (Kind::DropTablespace, None),
        NodeRef::AlterTableSpaceOptionsStmt(_) => (Kind::AlterTablespace, None),
        NodeRef::AlterTableMoveAllStmt(_) => (Kind::AlterTable, None),
        NodeRef::CreateRoleStmt(_) => (Kind::CreateRole, None),
        NodeRef::AlterRoleStmt(_) => (Kind::AlterRole, None),
        NodeRef::DropRoleStmt(_) => (Kind::DropRole, None),
        NodeRef::GrantRoleStmt(grant) => (if grant.is_grant { Kind::Grant } else { Kind::Revoke }, None),
        NodeRef::ReassignOwnedStmt(_) => (Kind::ReassignOwned, None),
        NodeRef::DropOwnedStmt(_) => (Kind::DropOwned, None),
        NodeRef::CreateDomainStmt(_) => (Kind::CreateDomain, None),
        NodeRef::AlterDomainStmt(_) => (Kind::AlterDomain, None),
        NodeRef::CreateEnumStmt(_) => (Kind::CreateType, None),
        NodeRef::AlterEnumStmt(_) => (Kind::AlterType, None),
        NodeRef::AlterCollationStmt(_) => (Kind::AlterCollation, None),
        NodeRef::CreateOpFamilyStmt(_) => (Kind::CreateOperatorFamily, None),
        NodeRef::AlterEventTrigStmt(_) => (Kind::AlterEventTrigger, None),
        NodeRef::AlterTsdictionaryStmt(_) => (Kind::AlterTextSearchDictionary, None),
        NodeRef::AlterTsconfigurationStmt(_) => (Kind::AlterTextSearchConfiguration, None),
        NodeRef::CreatePlangStmt(_) => (Kind::CreateLanguage, None),
        NodeRef::AlterExtensionStmt(_) | NodeRef::AlterExtensionContentsStmt(_) => {
            (Kind::AlterExtension, None)
        }
        NodeRef::CreateFdwStmt(_) => (Kind::CreateForeignDataWrapper, None),
        NodeRef::AlterFdwStmt(_) => (Kind::AlterForeignDataWrapper, None),
        NodeRef::CreateForeignServerStmt(_) => (Kind::CreateServer, None),
        NodeRef::AlterForeignServerStmt(_) => (Kind::AlterServer, None),
        NodeRef::CreateUserMappingStmt(_) => (Kind::CreateUserMapping, None),
        NodeRef::AlterUserMappingStmt(_) => (Kind::AlterUserMapping, None),
        NodeRef::DropUserMappingStmt(_) => (Kind::DropUserMapping, None),
        NodeRef::CreatePublicationStmt(_) => (Kind::CreatePublication, None),
        NodeRef::AlterPublicationStmt(_) => (Kind::AlterPublication, None),
        NodeRef::CreateSubscriptionStmt(_) => (Kind::CreateSubscription, None),
        NodeRef::AlterSubscriptionStmt(_) => (Kind::AlterSubscription, None),
        NodeRef::DropSubscriptionStmt(_) => (Kind::DropSubscription, None),
        NodeRef::ConstraintsSetStmt(_) => (Kind::SetConstraints, None),
        NodeRef::VariableShowStmt(_) => (Kind::Show, None),
        NodeRef::DeallocateStmt(_) => (Kind::Deallocate, None),
        NodeRef::FetchStmt(fetch) => (if fetch.ismove { Kind::Move } else { Kind::Fetch }, None),
        NodeRef::ClosePortalStmt(_) => (Kind::Close, None),
        NodeRef::ListenStmt(_) => (Kind::Listen, None),
        NodeRef::UnlistenStmt(_) => (Kind::Unlisten, None),
        NodeRef::NotifyStmt(_) => (Kind::Notify, None),
        NodeRef::CheckPointStmt(_) => (Kind::Checkpoint, None),
        _ => return None,
    })
}
