// Shows /v1/openapi.json. No key is kept in the browser, and nothing is asked of any other server.
SwaggerUIBundle({
  url: "v1/openapi.json",
  dom_id: "#api",
  deepLinking: true,
  persistAuthorization: false,
  validatorUrl: null,
});
