"""The commands as a person types them: arguments, help texts, exit codes. Each imports its work when it is called."""
