"""`engram mcp`: the operations as tools of the Model Context Protocol. Only `server` and `stdio` need the `mcp` package."""
