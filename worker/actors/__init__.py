"""The bodies of the catalog's tasks, a module a family: docs/tasks.md shows how to add one."""
