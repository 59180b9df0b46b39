-- An agent is a target of a command once. An index that says so is chosen before the primary key: without it, each receipt read all
-- targets of its command.
DROP INDEX targets_of_agent;
CREATE UNIQUE INDEX targets_of_agent ON targets (command, agent_id);
