-- The least that Reshelve needs of the source. Run as the tables' owner, once for each table that the query reads.
-- SELECT is also what LOCK TABLE … IN ACCESS SHARE MODE needs: no table is ever written to.
create role reshelve login password :'password';
grant connect on database :"database" to reshelve;
grant usage on schema public to reshelve;
grant select on table public.cities, public.countries to reshelve;
-- Row-level security: the reader refuses a table whose policies would hide rows from it. Where a table has some:
--   alter role reshelve bypassrls;
-- For `changes: replication` (the default). REPLICATION is a superuser's to give; on Amazon RDS it is
--   grant rds_replication to reshelve;
alter role reshelve replication;
-- Only owners of tables can publish them. So let the owner make the publication, and name it in the spec:
--   changes: {replication: {publication: search_changes}}
-- A role that owns the tables needs none. The run makes one and drops it:
--   grant create on database :"database" to reshelve;
create publication search_changes for table public.cities, public.countries
  with (publish_via_partition_root = true);
-- A table without primary key, or one of which a lookup needs other columns than those of its key, must log them;
-- `reshelve check` prints the statement, for instance:
--   alter table public.countries replica identity full;
-- Nothing of this is needed with `changes: none`.
