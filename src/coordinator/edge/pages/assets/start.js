// Starts Swagger UI on this server's own description. A file of its own, because no inline scripts are allowed.
window.ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  validatorUrl: null, // otherwise the document is sent to another server
  deepLinking: true,
  filter: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  defaultModelExpandDepth: 3,
  defaultModelRendering: "example",
  persistAuthorization: false, // a key stays in this page and is gone with it
  syntaxHighlight: { activated: true },
});
